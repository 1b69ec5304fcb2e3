//! The specification of a column of events or flows.

use super::cells::Cell;
use crate::{Column, ColumnOptions, ColumnType};

/// The specification of a column.
pub(super) struct Spec {
    name: &'static str,
    kind: ColumnType,
    options: ColumnOptions,
    pub(super) cell: Cell,
}

/// A column on which a constraint saves work.
pub(super) const FILTERABLE: ColumnOptions =
    ColumnOptions::ADDITIONAL.union(ColumnOptions::OPTIMIZED);
pub(super) const OTHER: ColumnOptions = ColumnOptions::OPTIMIZED;
/// A column that only queries that name it read.
pub(super) const HIDDEN: ColumnOptions = OTHER.union(ColumnOptions::HIDDEN);
pub(super) const HIDDEN_FILTERABLE: ColumnOptions = FILTERABLE.union(ColumnOptions::HIDDEN);

pub(super) const fn spec(
    name: &'static str,
    kind: ColumnType,
    options: ColumnOptions,
    cell: Cell,
) -> Spec {
    Spec { name, kind, options, cell }
}

impl Spec {
    pub(super) fn column(&self) -> Column {
        let &Spec { name, kind, options, .. } = self;
        Column { name, kind, options }
    }
}

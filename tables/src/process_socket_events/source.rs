//! The kernel as the source of records.

use super::collection::Open;
use crate::Options;

/// Opens the programs of the kernel.
pub(super) fn open(_options: &Options) -> Open {
    Box::new(|| Err("this build has no programs for the kernel".to_owned()))
}

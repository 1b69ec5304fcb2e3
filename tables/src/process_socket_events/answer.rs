//! The rows of an answer.

use std::collections::HashMap;
use std::sync::Arc;

use super::cells::Cell;
use super::event::Event;
use crate::{Explanation, RowUser, Rows, User, Value};

/// Events as rows. Their cells are made when they are read.
pub(super) struct Answer {
    events: Vec<Arc<Event>>,
    cells: Box<[Cell]>,
    omitted: HashMap<User, u64>,
    explanation: Explanation,
}

impl Answer {
    pub(super) fn new(
        events: Vec<Arc<Event>>,
        cells: Box<[Cell]>,
        explanation: Explanation,
    ) -> Answer {
        Answer { events, cells, omitted: HashMap::new(), explanation }
    }
}

impl Rows for Answer {
    fn len(&self) -> usize {
        self.events.len()
    }

    /// The id of an event is unique, and the same in every answer.
    fn id(&self, row: usize) -> i64 {
        self.events.get(row).map_or(0, |event| event.id.cast_signed())
    }

    fn cell(&self, row: usize, column: usize) -> Value<'_> {
        match (self.events.get(row), self.cells.get(column)) {
            (Some(event), Some(cell)) => cell(event),
            _ => Value::Null,
        }
    }

    /// Of each user the newest events are kept.
    fn users(&self) -> Option<Vec<RowUser>> {
        let row_user = |(row, event): (usize, &Arc<Event>)| {
            let age = self.events.len() - row;
            RowUser { user: event.user(), order: (i32::try_from(age).unwrap_or(i32::MAX), 0) }
        };
        Some(self.events.iter().enumerate().map(row_user).collect())
    }

    fn omit(&mut self, is_omitted: &[bool]) {
        for (event, _) in self.events.iter().zip(is_omitted).filter(|(_, is_omitted)| **is_omitted)
        {
            *self.omitted.entry(event.user()).or_default() += 1;
        }
        let mut is_omitted = is_omitted.iter();
        self.events.retain(|_| !is_omitted.next().copied().unwrap_or_default());
    }

    fn omitted(&self) -> Vec<(User, u64)> {
        self.omitted.iter().map(|(user, rows)| (*user, *rows)).collect()
    }

    fn explanation(&self) -> Explanation {
        self.explanation.clone()
    }
}

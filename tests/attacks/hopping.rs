use super::{Attack, Test};
pub(super) const ATTACKS: &[Attack] = &[];
pub(super) const TESTS: &[Test] = &[];

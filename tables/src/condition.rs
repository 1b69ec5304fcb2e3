//! The constraints on one column as a condition.
//!
//! A condition can admit more values than the query, but never fewer. A constraint that is not a number admits
//! all values. Several `=` constraints on one column admit each of their values, whether they come from an `IN`
//! or from an `AND`.

use crate::{Constraint, Operator};

/// The numbers that the constraints on a column admit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NumberCondition {
    /// The only admitted numbers, sorted; None if the constraints list none.
    pub(crate) any_of: Option<Vec<i64>>,
    none_of: Vec<i64>,
    at_least: i64,
    at_most: i64,
}

impl Default for NumberCondition {
    fn default() -> Self {
        NumberCondition { any_of: None, none_of: Vec::new(), at_least: i64::MIN, at_most: i64::MAX }
    }
}

impl NumberCondition {
    pub(crate) fn new<'a>(constraints: impl Iterator<Item = &'a Constraint>) -> Self {
        let mut condition = NumberCondition::default();
        let mut equals: Option<Vec<Option<i64>>> = None;
        for constraint in constraints {
            let number: Option<i64> = constraint.text.parse().ok();
            match (constraint.operator, number) {
                (Operator::Equals | Operator::Is, number) => {
                    equals.get_or_insert_default().push(number);
                }
                (_, None) => {}
                (Operator::NotEquals | Operator::IsNot, Some(number)) => {
                    condition.none_of.push(number);
                }
                (Operator::GreaterThan, Some(number)) => {
                    condition.at_least = condition.at_least.max(number.saturating_add(1));
                }
                (Operator::GreaterThanOrEquals, Some(number)) => {
                    condition.at_least = condition.at_least.max(number);
                }
                (Operator::LessThan, Some(number)) => {
                    condition.at_most = condition.at_most.min(number.saturating_sub(1));
                }
                (Operator::LessThanOrEquals, Some(number)) => {
                    condition.at_most = condition.at_most.min(number);
                }
                (Operator::Other(_), Some(_)) => {}
            }
        }
        condition.any_of = equals.and_then(|numbers| numbers.into_iter().collect());
        for list in condition.any_of.iter_mut().chain([&mut condition.none_of]) {
            list.sort_unstable();
            list.dedup();
        }
        condition
    }

    pub(crate) fn admits(&self, number: i64) -> bool {
        (self.at_least..=self.at_most).contains(&number)
            && self.any_of.as_ref().is_none_or(|list| list.binary_search(&number).is_ok())
            && self.none_of.binary_search(&number).is_err()
    }
}

#[cfg(target_os = "linux")]
impl NumberCondition {
    /// The least and the greatest number that the condition can admit. The range is empty if the first exceeds the
    /// second.
    pub(crate) fn range(&self) -> (i64, i64) {
        match self.any_of.as_deref() {
            Some([first, .., last]) => (self.at_least.max(*first), self.at_most.min(*last)),
            Some([only]) => (self.at_least.max(*only), self.at_most.min(*only)),
            Some([]) => (1, 0),
            None => (self.at_least, self.at_most),
        }
    }
}

/// Conditions that the kernel can evaluate.
#[cfg(target_os = "linux")]
impl NumberCondition {
    pub(crate) fn is_open(&self) -> bool {
        *self == NumberCondition::default()
    }

    /// The ports from the lowest to the highest admitted one.
    pub(crate) fn ports(&self) -> std::ops::RangeInclusive<u16> {
        let listed = |end: fn(&[i64]) -> Option<&i64>, or| {
            self.any_of.as_deref().map_or(or, |list| end(list).copied().unwrap_or(or))
        };
        let first = self.at_least.max(listed(<[i64]>::first, i64::MIN)).max(0);
        let last = self.at_most.min(listed(<[i64]>::last, i64::MAX));
        match (u16::try_from(first), u16::try_from(last.min(u16::MAX.into()))) {
            (Ok(first), Ok(last)) => first..=last,
            _ => std::ops::RangeInclusive::new(1, 0),
        }
    }
}

/// The texts that the constraints on a column admit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TextCondition {
    any_of: Option<Vec<String>>,
    none_of: Vec<String>,
}

impl TextCondition {
    pub(crate) fn new<'a>(constraints: impl Iterator<Item = &'a Constraint>) -> Self {
        let mut condition = TextCondition::default();
        for constraint in constraints {
            match constraint.operator {
                Operator::Equals | Operator::Is => {
                    condition.any_of.get_or_insert_default().push(constraint.text.clone());
                }
                Operator::NotEquals | Operator::IsNot => {
                    condition.none_of.push(constraint.text.clone());
                }
                _ => {}
            }
        }
        condition
    }

    pub(crate) fn is_open(&self) -> bool {
        self.any_of.is_none() && self.none_of.is_empty()
    }

    pub(crate) fn admits(&self, text: &str) -> bool {
        self.any_of.as_ref().is_none_or(|list| list.iter().any(|listed| may_be_equal(listed, text)))
            && !self.none_of.iter().any(|listed| listed == text)
    }
}

/// Whether the texts are equal in one of the comparisons of SQL.
///
/// osquery does not report which comparison the query uses: text, with a collation such as NOCASE or RTRIM, or
/// numbers if the other side is a number.
fn may_be_equal(a: &str, b: &str) -> bool {
    let number = |text: &str| text.trim_ascii().parse::<f64>().ok();
    a.trim_end_matches(' ').eq_ignore_ascii_case(b.trim_end_matches(' '))
        || number(a).is_some_and(|a| number(b) == Some(a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn constraints(constraints: &[(Operator, &str)]) -> Vec<Constraint> {
        let constraint = |&(operator, text): &(Operator, &str)| Constraint {
            column: 0,
            operator,
            text: text.into(),
        };
        constraints.iter().map(constraint).collect()
    }

    fn numbers(of: &[(Operator, &str)]) -> NumberCondition {
        NumberCondition::new(constraints(of).iter())
    }

    fn texts(of: &[(Operator, &str)]) -> TextCondition {
        TextCondition::new(constraints(of).iter())
    }

    #[test]
    fn several_equals_mean_any_of_them() {
        let condition = numbers(&[(Operator::Equals, "3"), (Operator::Equals, "1")]);
        assert!(condition.admits(1) && condition.admits(3) && !condition.admits(2));
    }

    #[test]
    fn one_unreadable_member_lifts_the_whole_list() {
        for text in ["abc", "3.5", "1.0", " 3 ", "", "9223372036854775808", "0x1"] {
            let condition = numbers(&[(Operator::Equals, "1"), (Operator::Equals, text)]);
            assert_eq!(condition, NumberCondition::default(), "{text:?}");
        }
    }

    #[test]
    fn an_unreadable_bound_is_no_bound() {
        assert_eq!(numbers(&[(Operator::LessThan, "abc")]), NumberCondition::default());
    }

    #[test]
    fn bounds_at_the_ends_of_the_range_lose_nothing() {
        let largest = i64::MAX.to_string();
        assert!(numbers(&[(Operator::LessThanOrEquals, &largest)]).admits(i64::MAX));
        assert!(numbers(&[(Operator::LessThan, &largest)]).admits(i64::MAX - 1));
        let smallest = i64::MIN.to_string();
        assert!(numbers(&[(Operator::GreaterThan, &smallest)]).admits(i64::MIN + 1));
    }

    #[test]
    fn a_limit_at_a_column_is_no_constraint_on_it() {
        let condition = numbers(&[(Operator::from_code(Operator::LIMIT), "5")]);
        assert_eq!(condition, NumberCondition::default());
        let condition = texts(&[(Operator::from_code(Operator::OFFSET), "5")]);
        assert_eq!(condition, TextCondition::default());
    }

    #[test]
    fn text_equality_is_lenient_and_inequality_is_strict() {
        let condition = texts(&[(Operator::Equals, "listen  ")]);
        assert!(condition.admits("LISTEN") && !condition.admits("LAST_ACK"));
        let condition = texts(&[(Operator::NotEquals, "listen")]);
        assert!(condition.admits("LISTEN"));
        assert!(!texts(&[(Operator::NotEquals, "LISTEN")]).admits("LISTEN"));
    }

    #[test]
    fn a_text_of_digits_may_be_compared_as_a_number() {
        let condition = texts(&[(Operator::Equals, " 4026531840.0")]);
        assert!(condition.admits("4026531840") && !condition.admits("4026531841"));
    }

    fn any_operator() -> impl Strategy<Value = Operator> {
        (0..80u8).prop_map(Operator::from_code)
    }

    proptest! {
        #[test]
        fn no_number_is_lost_that_sql_would_keep(
            constraints in prop::collection::vec((any_operator(), -4..4i64), 0..4),
            number in -5..5i64,
        ) {
            let kept_by_sql = constraints.iter().all(|(operator, bound)| match operator {
                Operator::Equals | Operator::Is => number == *bound,
                Operator::NotEquals | Operator::IsNot => number != *bound,
                Operator::GreaterThan => number > *bound,
                Operator::GreaterThanOrEquals => number >= *bound,
                Operator::LessThan => number < *bound,
                Operator::LessThanOrEquals => number <= *bound,
                Operator::Other(_) => true,
            });
            let texts: Vec<_> =
                constraints.iter().map(|(operator, bound)| (*operator, bound.to_string())).collect();
            let texts: Vec<_> = texts.iter().map(|(operator, text)| (*operator, &text[..])).collect();
            let condition = numbers(&texts);
            if kept_by_sql {
                prop_assert!(condition.admits(number));
            }
            #[cfg(target_os = "linux")]
            if condition.admits(number) {
                let (least, greatest) = condition.range();
                prop_assert!((least..=greatest).contains(&number));
            }
        }
    }
}

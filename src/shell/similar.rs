//! Finds names that are similar to a misspelled one.

use std::collections::BTreeSet;

/// Most names in a suggestion.
const MAX_NAMES: usize = 3;
/// Longest edit distance of a similar name.
const MAX_DISTANCE: usize = 3;
/// Shortest common part of two similar names, in characters.
const MIN_SHARED: usize = 3;

/// Returns the candidates that are similar to the name, the nearest first.
///
/// A candidate is similar if few edits lead to it, or if one of the two names contains the other.
pub(super) fn similar_names<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Vec<&'a str> {
    // The distance takes time in proportion to the length of the name, and no column has a name this long.
    if name.len() > 64 {
        return Vec::new();
    }
    let name = name.to_ascii_lowercase();
    let mut ranked: BTreeSet<(usize, &str)> = BTreeSet::new();
    for candidate in candidates {
        let distance = edit_distance(&name, candidate);
        if is_near(&name, candidate, distance) || is_part(&name, candidate) {
            ranked.insert((distance, candidate));
        }
    }
    ranked.into_iter().take(MAX_NAMES).map(|(_, candidate)| candidate).collect()
}

/// Half of a short name can be wrong, but not all of it.
fn is_near(name: &str, candidate: &str, distance: usize) -> bool {
    distance <= MAX_DISTANCE && 2 * distance <= name.chars().count().max(candidate.chars().count())
}

fn is_part(name: &str, candidate: &str) -> bool {
    name.len().min(candidate.len()) >= MIN_SHARED
        && (name.contains(candidate) || candidate.contains(name))
}

/// Returns the least number of insertions, deletions and replacements of a character that turn one text into
/// the other (Levenshtein distance).
fn edit_distance(from: &str, to: &str) -> usize {
    // The distances of a prefix of `from` to each prefix of `to`.
    let mut distances: Vec<usize> = (0..=to.chars().count()).collect();
    for (row, a) in from.chars().enumerate() {
        let mut diagonal = row;
        let mut left = row + 1;
        if let Some(first) = distances.first_mut() {
            *first = left;
        }
        for (distance, b) in distances.iter_mut().skip(1).zip(to.chars()) {
            let replaced = diagonal + usize::from(a != b);
            diagonal = *distance;
            left = replaced.min(diagonal + 1).min(left + 1);
            *distance = left;
        }
    }
    distances.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [&str; 7] =
        ["pid", "name", "local_port", "remote_port", "local_address", "state", "net_namespace"];

    #[test]
    fn the_distance_counts_edits_in_both_directions() {
        for (from, to, distance) in [
            ("", "", 0),
            ("", "abc", 3),
            ("name", "name", 0),
            ("nmae", "name", 2),
            ("nam", "name", 1),
            ("kitten", "sitting", 3),
            ("größe", "grösse", 2),
        ] {
            assert_eq!(edit_distance(from, to), distance, "{from} {to}");
            assert_eq!(edit_distance(to, from), distance, "{to} {from}");
        }
    }

    #[test]
    fn a_misspelled_name_has_the_nearest_names() {
        assert_eq!(similar_names("nmae", COLUMNS), ["name"]);
        assert_eq!(similar_names("Local_Prot", COLUMNS), ["local_port"]);
        assert_eq!(similar_names("stat", COLUMNS), ["state"]);
    }

    #[test]
    fn a_part_of_a_name_has_the_names_that_contain_it() {
        assert_eq!(similar_names("port", COLUMNS), ["local_port", "remote_port"]);
        assert_eq!(similar_names("process_name", COLUMNS), ["name"]);
    }

    #[test]
    fn at_most_three_names_are_similar_and_each_once() {
        assert_eq!(similar_names("aaaa", ["aaab", "aaac", "aaab", "aaad", "aaae"]).len(), 3);
        assert_eq!(similar_names("aaaa", ["aaab", "aaab"]), ["aaab"]);
    }

    #[test]
    fn a_name_far_from_all_others_has_no_similar_names() {
        for name in ["", "x", "xy", "xyz", "username", "p", &"name".repeat(100)] {
            assert!(similar_names(name, ["pid", "fd", "family", "path"]).is_empty(), "{name}");
        }
    }
}

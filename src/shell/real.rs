//! Prints real numbers as SQLite does.
//!
//! Source: SQLite's `%!.17g`, the form of a REAL cast to TEXT. SQLite prints up to 17 digits. This
//! module prints the shortest form that reads back as the same number, so the last digits can differ.

/// Returns the number as text, always with a point: `1.0e+20` from 10^17 on and below 10^-4, `Inf` if
/// infinite.
pub(super) fn to_text(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    match scientific.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>())) {
        Some((digits, Ok(exponent))) if !(-4..17).contains(&exponent) => {
            let point = if digits.contains('.') { "" } else { ".0" };
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}{point}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => {
            let fixed = number.to_string();
            if fixed.contains('.') { fixed } else { fixed + ".0" }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use rusqlite::Connection;

    fn sqlite_prints(number: f64) -> String {
        let connection = Connection::open_in_memory().unwrap();
        connection.query_row("SELECT CAST(?1 AS TEXT)", [number], |row| row.get(0)).unwrap()
    }

    #[test]
    fn whole_and_extreme_numbers_print_as_in_sqlite() {
        let numbers = [
            0.0,
            1.0,
            -1.0,
            3.5,
            0.1,
            0.1 + 0.2,
            1e15,
            1e16,
            1e17,
            123456789012345680.0,
            1e20,
            0.0001,
            0.00001,
            f64::MAX,
            f64::INFINITY,
            f64::NEG_INFINITY,
            2.9999999999999996,
        ];
        for number in numbers {
            assert_eq!(super::to_text(number), sqlite_prints(number), "{number:?}");
        }
    }

    proptest! {
        #[test]
        fn every_number_reads_back_as_itself(number in any::<f64>()) {
            prop_assume!(number.is_finite());
            prop_assert_eq!(super::to_text(number).parse::<f64>().unwrap(), number);
        }
    }
}

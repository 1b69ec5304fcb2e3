//! Escapes characters in untrusted text that a terminal interprets or does not show.

use std::borrow::Cow;

/// Replaces control and format characters, line and paragraph separators, and other characters without a
/// glyph by Rust's escapes. A backslash is doubled, so no other text looks like an escape.
pub fn escape(text: &str) -> Cow<'_, str> {
    let is_escaped = |c: char| c == '\\' || c.is_control() || is_inescape(c);
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_escaped(c) { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    Cow::Owned(escaped)
}

/// Unicode's general categories Cf, Zl and Zp, and its property Default_Ignorable_Code_Point, as of
/// Unicode 16.
fn is_inescape(c: char) -> bool {
    matches!(c,
        '\u{ad}'
        | '\u{34f}'
        | '\u{600}'..='\u{605}'
        | '\u{61c}'
        | '\u{6dd}'
        | '\u{70f}'
        | '\u{890}'..='\u{891}'
        | '\u{8e2}'
        | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}'
        | '\u{110bd}'
        | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}'
        | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        let hostile = "\u{1b}[2J\r\n\t\0\u{7f}\u{9b}\u{85}\u{2028}\u{202e}\u{2066}\u{200f}\u{61c}";
        let shown =
            r"\u{1b}[2J\r\n\t\u{0}\u{7f}\u{9b}\u{85}\u{2028}\u{202e}\u{2066}\u{200f}\u{61c}";
        assert_eq!(escape(hostile), shown);
    }

    #[test]
    fn invisible_characters_are_escaped() {
        let invisible = "\u{ad}\u{200b}\u{200d}\u{2060}\u{3164}\u{fe0f}\u{feff}\u{fffb}\u{e0041}";
        let shown = r"\u{ad}\u{200b}\u{200d}\u{2060}\u{3164}\u{fe0f}\u{feff}\u{fffb}\u{e0041}";
        assert_eq!(escape(invisible), shown);
    }

    #[test]
    fn a_backslash_is_doubled_and_other_text_unchanged() {
        assert_eq!(escape(r"\n"), r"\\n");
        assert_eq!(escape(r"/run/x\u{1b}"), r"/run/x\\u{1b}");
        let plain = "/run/é日本 'a' \"b\" e\u{301}\u{fffd}";
        assert!(matches!(escape(plain), Cow::Borrowed(text) if text == plain));
    }

    proptest! {
        #[test]
        fn different_texts_have_different_escaped_forms(a in r"[\\nu{}1b\n\x1b]{0,6}", b in r"[\\nu{}1b\n\x1b]{0,6}") {
            prop_assert_eq!(a == b, escape(&a) == escape(&b));
        }
    }
}

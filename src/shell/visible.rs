//! Text of strangers, made safe and plain to look at.

use std::borrow::Cow;

/// The text with escapes in place of what a terminal would obey or nobody would see: control and
/// format characters, line and paragraph separators, and others that have no glyph. They are Rust's
/// escapes, and so that nothing else looks like one, a backslash is doubled.
pub fn visible(text: &str) -> Cow<'_, str> {
    let is_escaped = |c: char| c == '\\' || c.is_control() || is_unseen(c);
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
fn is_unseen(c: char) -> bool {
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
    fn a_terminal_control_character_is_shown_as_an_escape() {
        let hostile = "\u{1b}[2J\r\n\t\0\u{7f}\u{9b}\u{85}\u{2028}\u{202e}\u{2066}\u{200f}\u{61c}";
        let shown =
            r"\u{1b}[2J\r\n\t\u{0}\u{7f}\u{9b}\u{85}\u{2028}\u{202e}\u{2066}\u{200f}\u{61c}";
        assert_eq!(visible(hostile), shown);
    }

    #[test]
    fn an_invisible_character_is_shown_as_an_escape() {
        let unseen = "\u{ad}\u{200b}\u{200d}\u{2060}\u{3164}\u{fe0f}\u{feff}\u{fffb}\u{e0041}";
        let shown = r"\u{ad}\u{200b}\u{200d}\u{2060}\u{3164}\u{fe0f}\u{feff}\u{fffb}\u{e0041}";
        assert_eq!(visible(unseen), shown);
    }

    #[test]
    fn a_backslash_is_doubled_and_other_text_is_unchanged() {
        assert_eq!(visible(r"\n"), r"\\n");
        assert_eq!(visible(r"/run/x\u{1b}"), r"/run/x\\u{1b}");
        let plain = "/run/é日本 'a' \"b\" e\u{301}\u{fffd}";
        assert!(matches!(visible(plain), Cow::Borrowed(text) if text == plain));
    }

    proptest! {
        #[test]
        fn two_texts_are_never_shown_alike(a in r"[\\nu{}1b\n\x1b]{0,6}", b in r"[\\nu{}1b\n\x1b]{0,6}") {
            prop_assert_eq!(a == b, visible(&a) == visible(&b));
        }
    }
}

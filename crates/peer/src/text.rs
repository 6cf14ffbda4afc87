//! Text from other peers, for a terminal.

/// Writes a line to standard error. Whoever has closed it does not want to know.
macro_rules! complain {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($line)*);
    }};
}

/// Whether a character changes how others around it are shown, or is not shown: a control
/// character, a direction mark, a line separator.
#[must_use]
pub(crate) fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The text with such characters written as `\u{202e}`.
#[must_use]
pub(crate) fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for character in text.chars() {
        match is_unseen(character) {
            true => visible.extend(character.escape_unicode()),
            false => visible.push(character),
        }
    }
    visible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_deceive_is_written_out() {
        assert_eq!(visible("año \"1\" 🐟.txt"), "año \"1\" 🐟.txt");
        assert_eq!(visible("a\u{202e}txt.exe\u{1b}[2J"), "a\\u{202e}txt.exe\\u{1b}[2J");
    }
}

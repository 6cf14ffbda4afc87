//! Makes text from other peers safe to show on a terminal.

/// Writes a line to standard error. A failure is ignored: whoever closed standard error does not
/// want the line.
macro_rules! complain {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($line)*);
    }};
}

/// Whether a character is not shown, or changes how the characters around it are shown: a control
/// character, a direction mark, a line separator.
#[must_use]
pub(crate) fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The text with each unseen character ([`is_unseen`]) written as an escape, such as `\u{202e}`.
#[must_use]
pub(crate) fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unseen(character) {
            visible.extend(character.escape_unicode());
        } else {
            visible.push(character);
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

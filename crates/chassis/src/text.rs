//! Text from peers, made fit for a terminal or a log.

use std::fmt::{self, Write as _};

/// Shows text with its harmful characters escaped: control characters, which can act on a terminal,
/// and characters that are invisible or change the direction of writing, which can mislead a
/// reader.
#[derive(Debug, Clone, Copy)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if is_harmful(character) {
                write!(f, "{}", character.escape_unicode())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_harmful_is_escaped() {
        assert_eq!(Printable("año \"1\".txt").to_string(), "año \"1\".txt");
        assert_eq!(Printable("a\x1b[2J\n").to_string(), "a\\u{1b}[2J\\u{a}");
        assert_eq!(Printable("a\u{202e}txt.exe").to_string(), "a\\u{202e}txt.exe");
    }
}

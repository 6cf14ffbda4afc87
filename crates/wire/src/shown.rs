//! Text from peers, made fit to be shown.
//!
//! A name may hold characters that deceive whoever reads it. The list of these characters stands here
//! once, for logs, terminals and the peer's shell; the console's page has the same list as a regular
//! expression, and `harmful.txt` has characters of both kinds, with which both are tested.

use std::fmt::{self, Write as _};

/// Whether a character is not seen, or changes how the characters around it are shown: a control
/// character, a direction mark, a line separator, a soft hyphen. A character that joins letters or
/// emojis is not harmful.
#[must_use]
pub fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// Shows text with each harmful character ([`is_harmful`]) as an escape, such as `\u{202e}`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_character_of_the_list_is_told() {
        for line in include_str!("../harmful.txt").lines().filter(|line| line.starts_with("U+")) {
            let (code, kind) = line.split_once(' ').unwrap();
            let character = char::from_u32(u32::from_str_radix(&code[2..], 16).unwrap()).unwrap();
            assert_eq!(is_harmful(character), kind.starts_with("harmful"), "{line}");
        }
    }

    #[test]
    fn only_what_is_harmful_is_escaped() {
        assert_eq!(Printable("año \"1\" 🐟.txt").to_string(), "año \"1\" 🐟.txt");
        assert_eq!(Printable("a\x1b[2J\n").to_string(), "a\\u{1b}[2J\\u{a}");
        assert_eq!(Printable("a\u{202e}txt.exe").to_string(), "a\\u{202e}txt.exe");
    }
}

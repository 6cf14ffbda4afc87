//! Texts as a person compares them: without case, accents and differences of composition, so that
//! what a person types finds what another person wrote.

use unicode_normalization::UnicodeNormalization as _;

/// Letters that no decomposition turns into the letters that people type for them.
const LETTERS: [(char, &str); 11] = [
    ('ß', "ss"),
    ('æ', "ae"),
    ('œ', "oe"),
    ('ø', "o"),
    ('đ', "d"),
    ('ð', "d"),
    ('ħ', "h"),
    ('ı', "i"),
    ('ł', "l"),
    ('þ', "th"),
    ('ς', "σ"),
];

/// Appends a text without case, accents and differences of composition. Control characters
/// become spaces, so a folded text has no NUL.
pub fn fold(text: &str, folded: &mut String) {
    if text.is_ascii() {
        folded.extend(text.chars().map(|letter| spaced(letter.to_ascii_lowercase())));
        return;
    }
    for letter in text.nfkd().flat_map(char::to_lowercase).filter(|letter| !is_accent(*letter)) {
        match LETTERS.iter().find(|(special, _)| *special == letter) {
            Some((_, plain)) => folded.push_str(plain),
            None => folded.push(spaced(letter)),
        }
    }
}

/// Whether two names are canonically equal: the same letters, with each accent in one character with
/// its letter or behind its letter.
#[must_use]
pub fn is_same_name(one: &str, other: &str) -> bool {
    one == other || (!one.is_ascii() && !other.is_ascii() && one.nfc().eq(other.nfc()))
}

/// The spellings under which a store may have a name that a person typed: as typed, composed and
/// decomposed, each once.
#[must_use]
pub fn spellings(name: &str) -> Vec<String> {
    let mut spellings = vec![name.to_owned(), name.nfc().collect(), name.nfd().collect()];
    spellings.sort_unstable();
    spellings.dedup();
    spellings
}

/// Whether a character only adds an accent to the letter before it, in the scripts where people
/// leave accents out when they search.
fn is_accent(letter: char) -> bool {
    ('\u{300}'..='\u{36f}').contains(&letter)
}

fn spaced(letter: char) -> char {
    if letter.is_control() { ' ' } else { letter }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folded(text: &str) -> String {
        let mut folded = String::new();
        fold(text, &mut folded);
        folded
    }

    #[test]
    fn case_accents_and_composition_make_no_difference() {
        for (text, expected) in [
            ("Holiday_Photos-2024.TAR.gz", "holiday_photos-2024.tar.gz"),
            ("Élan vital", "elan vital"),
            ("E\u{301}lan", "elan"),
            ("Straße STRASSE ẞ", "strasse strasse ss"),
            ("ŁÓDŹ Þórr Œuvre ÆØÅ", "lodz thorr oeuvre aeoa"),
            ("ΟΔΟΣ οδός", "οδοσ οδοσ"),
            ("İstanbul ISPARTA ısparta", "istanbul isparta isparta"),
            ("ﬁle ＦＵＬＬ", "file full"),
            ("фото ФОТО", "фото фото"),
            ("写真", "写真"),
            ("a\0b\tc", "a b c"),
        ] {
            assert_eq!(folded(text), expected, "{text:?}");
        }
    }

    #[test]
    fn letters_that_are_not_a_letter_and_an_accent_stay_apart() {
        assert_ne!(folded("が"), folded("か"));
        assert_eq!(folded("が"), folded("か\u{3099}"));
        assert_eq!(folded("각"), folded("\u{1100}\u{1161}\u{11a8}"));
    }

    #[test]
    fn spellings_of_a_name_are_the_same_name() {
        let (whole, parts) = ("jos\u{e9}", "jose\u{301}");
        assert!(is_same_name(whole, parts) && !is_same_name(whole, "jose") && is_same_name("bob", "bob"));
        assert_eq!(spellings(whole), [parts, whole]);
        assert_eq!(spellings("bob"), ["bob"]);
    }

    proptest! {
        #[test]
        fn folding_is_stable_and_leaves_no_nul(text in any::<String>()) {
            let once = folded(&text);
            prop_assert!(!once.contains('\0'));
            prop_assert_eq!(folded(&once), once);
        }

        #[test]
        fn composed_and_decomposed_texts_fold_to_the_same(text in any::<String>()) {
            let (composed, decomposed): (String, String) = (text.nfc().collect(), text.nfd().collect());
            prop_assert_eq!(folded(&composed), folded(&text));
            prop_assert_eq!(folded(&decomposed), folded(&text));
        }
    }
}

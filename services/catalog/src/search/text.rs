//! How text is folded, so that what a person types finds what another person wrote.

use unicode_normalization::UnicodeNormalization as _;

/// The largest number of words of a query that count.
const MAX_WORDS: usize = 16;

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
pub(super) fn fold(text: &str, folded: &mut String) {
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

/// The words of a query, folded, the longest first. A word that is part of another is left out,
/// since whatever contains the other contains it too.
pub(super) fn words(query: &str) -> Vec<String> {
    let mut folded = String::new();
    fold(query, &mut folded);
    let mut all: Vec<&str> = folded.split_whitespace().collect();
    all.sort_by_key(|word| std::cmp::Reverse(word.len()));
    let mut words: Vec<String> = Vec::new();
    for word in all {
        if words.len() < MAX_WORDS && !words.iter().any(|longer| longer.contains(word)) {
            words.push(word.to_owned());
        }
    }
    words
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
    fn the_words_of_a_query_are_each_needed_and_bounded() {
        assert_eq!(words("  Holiday photos HOLIDAY day "), ["holiday", "photos"]);
        assert_eq!(words("report.pdf rep"), ["report.pdf"]);
        assert!(words(" \t\u{3000} ").is_empty());
        let many: Vec<_> = (100..200).map(|number| number.to_string()).collect();
        assert_eq!(words(&many.join(" ")).len(), MAX_WORDS);
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

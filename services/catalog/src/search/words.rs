//! How text is cut into the words that are searched for.

use tantivy::tokenizer::{AsciiFoldingFilter, LowerCaser, SimpleTokenizer, TextAnalyzer, TokenStream as _};

/// Letters of a word that count.
const LETTERS: usize = 24;
/// Words of a query that count: enough for any name.
const WORDS: usize = 16;

/// Finds words: runs of letters and digits, in lower case and without accents.
#[derive(Clone)]
pub(super) struct Words(TextAnalyzer);

impl Words {
    pub(super) fn new() -> Self {
        let analyzer = TextAnalyzer::builder(SimpleTokenizer::default());
        Self(analyzer.filter(LowerCaser).filter(AsciiFoldingFilter).build())
    }

    /// The words of a query.
    pub(super) fn of_query(&mut self, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        self.each(text, |word| words.push(word.to_owned()));
        words.sort_unstable();
        words.dedup();
        words.truncate(WORDS);
        words
    }

    /// What a word of a query may be, to find one of these texts: every beginning of every
    /// word in it, each once.
    pub(super) fn beginnings(&mut self, texts: [&str; 3]) -> Vec<String> {
        let mut beginnings = Vec::new();
        for text in texts {
            self.each(text, |word| {
                let ends = word.char_indices().map(|(start, letter)| start + letter.len_utf8());
                beginnings.extend(ends.map(|end| word[..end].to_owned()));
            });
        }
        beginnings.sort_unstable();
        beginnings.dedup();
        beginnings
    }

    fn each(&mut self, text: &str, mut found: impl FnMut(&str)) {
        self.0.token_stream(text).process(&mut |token| {
            let end = token.text.char_indices().nth(LETTERS).map_or(token.text.len(), |(end, _)| end);
            found(&token.text[..end]);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_digits() {
        let mut words = Words::new();
        assert_eq!(words.of_query("Holiday_Photos-2024.tar.gz"), ["2024", "gz", "holiday", "photos", "tar"]);
        assert_eq!(words.of_query("  Élan vital  élan "), ["elan", "vital"]);
        assert_eq!(words.of_query("写真 фото \u{202e}evil"), ["evil", "фото", "写真"]);
        assert!(words.of_query("<>&\"' .-_ \u{0}").is_empty());
        assert_eq!(words.of_query(&"x".repeat(300)), ["x".repeat(LETTERS)]);
    }

    #[test]
    fn every_beginning_of_every_word_finds_it() {
        let beginnings = Words::new().beginnings(["Ab-é1", "ab c", "ab"]);
        assert_eq!(beginnings, ["a", "ab", "c", "e", "e1"]);
    }
}

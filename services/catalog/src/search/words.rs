//! How text is cut into the words that are searched for.

use tantivy::tokenizer::{
    AsciiFoldingFilter, LowerCaser, SimpleTokenizer, TextAnalyzer, Token, TokenFilter, TokenStream, Tokenizer,
};
use unicode_normalization::UnicodeNormalization as _;

/// Letters of a word that count.
const LETTERS: usize = 24;
/// Words of a query that count: enough for any name.
const WORDS: usize = 16;

/// Text in which a letter and its accent are one sign, as the tokenizers expect it. Some
/// systems write file names otherwise.
pub(super) fn composed(text: &str) -> String {
    text.nfc().collect()
}

/// The words of a query, each once: runs of letters and digits, in lower case and without
/// accents.
pub(super) fn of_query(text: &str) -> Vec<String> {
    let analyzer = TextAnalyzer::builder(SimpleTokenizer::default());
    let mut analyzer = analyzer.filter(LowerCaser).filter(AsciiFoldingFilter).build();
    let mut words = Vec::new();
    analyzer
        .token_stream(&composed(text))
        .process(&mut |token| words.push(beginning(&token.text, LETTERS).to_owned()));
    words.sort_unstable();
    words.dedup();
    words.truncate(WORDS);
    words
}

/// Gives what a word of a query may be, to find a text: every beginning of every word.
pub(super) fn beginnings() -> TextAnalyzer {
    let analyzer = TextAnalyzer::builder(SimpleTokenizer::default());
    analyzer.filter(LowerCaser).filter(AsciiFoldingFilter).filter(Beginnings).build()
}

/// So many letters of a word, or all.
fn beginning(word: &str, letters: usize) -> &str {
    word.char_indices().nth(letters).map_or(word, |(end, _)| &word[..end])
}

/// Gives every beginning of a word instead of the word, the longest first.
#[derive(Clone)]
struct Beginnings;

impl TokenFilter for Beginnings {
    type Tokenizer<T: Tokenizer> = BeginningsTokenizer<T>;

    fn transform<T: Tokenizer>(self, tokenizer: T) -> BeginningsTokenizer<T> {
        BeginningsTokenizer(tokenizer)
    }
}

#[derive(Clone)]
struct BeginningsTokenizer<T>(T);

impl<T: Tokenizer> Tokenizer for BeginningsTokenizer<T> {
    type TokenStream<'a> = BeginningsStream<T::TokenStream<'a>>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Self::TokenStream<'a> {
        BeginningsStream(self.0.token_stream(text))
    }
}

/// What is left of the word is in the token.
struct BeginningsStream<T>(T);

impl<T: TokenStream> TokenStream for BeginningsStream<T> {
    fn advance(&mut self) -> bool {
        let word = &mut self.0.token_mut().text;
        word.pop();
        if !word.is_empty() {
            return true;
        }
        if !self.0.advance() {
            return false;
        }
        let word = &mut self.0.token_mut().text;
        let counts = beginning(word, LETTERS).len();
        word.truncate(counts);
        true
    }

    fn token(&self) -> &Token {
        self.0.token()
    }

    fn token_mut(&mut self) -> &mut Token {
        self.0.token_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_digits() {
        assert_eq!(of_query("Holiday_Photos-2024.tar.gz"), ["2024", "gz", "holiday", "photos", "tar"]);
        assert_eq!(of_query("  Élan vital  élan "), ["elan", "vital"]);
        assert_eq!(of_query("e\u{301}lan"), ["elan"]);
        assert_eq!(of_query("写真 фото \u{202e}evil"), ["evil", "фото", "写真"]);
        assert!(of_query("<>&\"' .-_ \u{0}").is_empty());
        assert_eq!(of_query(&"x".repeat(300)), ["x".repeat(LETTERS)]);
    }

    #[test]
    fn every_beginning_of_every_word_finds_it() {
        let found = |text: &str| {
            let mut found = Vec::new();
            beginnings().token_stream(text).process(&mut |token| found.push(token.text.clone()));
            found
        };
        assert_eq!(found("Ab-é1 写真"), ["ab", "a", "e1", "e", "写真", "写"]);
        assert_eq!(found(&"x".repeat(300)).len(), LETTERS);
        assert!(found("").is_empty() && found(" -. ").is_empty());
    }
}

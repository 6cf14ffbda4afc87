//! The words of a query.

use lonja_chassis::fold::fold;

/// The largest number of words of a query that count.
const MAX_WORDS: usize = 16;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_query_are_each_needed_and_bounded() {
        assert_eq!(words("  Holiday photos HOLIDAY day "), ["holiday", "photos"]);
        assert_eq!(words("report.pdf rep"), ["report.pdf"]);
        assert!(words(" \t\u{3000} ").is_empty());
        let many: Vec<_> = (100..200).map(|number| number.to_string()).collect();
        assert_eq!(words(&many.join(" ")).len(), MAX_WORDS);
    }
}

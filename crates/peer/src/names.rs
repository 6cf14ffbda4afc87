//! Names in several spellings: `é` is one character for most systems, and a letter and an accent
//! for others, such as macOS. A person cannot see the difference, so a name finds each name that is
//! canonically equal. The names that this peer publishes and registers are composed.

use unicode_normalization::{UnicodeNormalization as _, is_nfc};

/// The composed spelling of a name (Unicode's NFC).
#[must_use]
pub(crate) fn composed(name: &str) -> String {
    if is_nfc(name) { name.to_owned() } else { name.nfc().collect() }
}

/// Whether two names are canonically equal.
#[must_use]
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    one == other || one.nfc().eq(other.nfc())
}

/// Whether a name begins with what a person has typed so far.
#[must_use]
pub(crate) fn begins(name: &str, typed: &str) -> bool {
    name.starts_with(typed) || composed(name).starts_with(&composed(typed))
}

/// The item that has the name that a person typed, or else an item whose name is canonically equal.
pub(crate) fn find<'a, T>(items: &'a [T], typed: &str, name: impl Fn(&T) -> &str) -> Option<&'a T> {
    let exactly = items.iter().find(|item| name(item) == typed);
    exactly.or_else(|| items.iter().find(|item| is_same(name(item), typed)))
}

/// The spellings, other than the composed spelling, under which an index may know a name that a
/// person typed: as typed, and decomposed.
pub(crate) fn other_spellings(typed: &str) -> Vec<String> {
    let mut others = vec![typed.to_owned(), typed.nfd().collect()];
    others.dedup();
    others.retain(|other| *other != composed(typed));
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_a_name_find_each_other() {
        let (whole, parts) = ("caf\u{e9}.txt", "cafe\u{301}.txt");
        assert!(is_same(whole, parts) && !is_same(whole, "cafe.txt"));
        assert_eq!(composed(parts), whole);
        assert_eq!(other_spellings(parts), [parts]);
        assert_eq!(other_spellings(whole), [parts]);
        assert!(other_spellings("plain").is_empty());
        assert!(begins(parts, "caf\u{e9}") && begins(whole, "cafe\u{301}.") && !begins(whole, "cafe."));
        assert_eq!(find(&[whole, parts], parts, |name| name), Some(&parts));
        assert_eq!(find(&[whole], parts, |name| name), Some(&whole));
    }
}

//! A block of the index: some hundred files whose folded texts stand one after the other, so that
//! one pass over contiguous memory finds a word in all of them.

use std::borrow::Cow;

use lonja_chassis::fold::fold;
use memchr::memmem::Finder;

use crate::store::File;

/// The number of bytes of folded text from which on a block takes no more files.
const FULL: usize = 64 << 10;
/// The largest number of files of a block.
pub(super) const MAX_FILES: usize = 1 << 12;

/// Stands behind each of the three folded texts of a file. No folded text contains a NUL.
const END: u8 = 0;
/// Overwrites the text of a file that was removed. The byte occurs in no UTF-8 text, so no word is
/// found there.
const REMOVED: u8 = 0xff;
/// Stands in the place of a session's number when the file was removed.
const NO_SESSION: u32 = u32::MAX;
/// What of a file's filename and description is kept besides the folded texts.
#[derive(Clone, Copy)]
enum Original {
    /// Nothing: the folded texts are the original ones.
    Folded,
    /// The texts differ in capitals only. From this position in `capitals` on, a bit for each byte says
    /// whether the byte is a capital letter of ASCII.
    Capitals(u32),
    /// The texts, one after the other, from this position in `texts` on.
    Text(u32),
}

/// Files with the texts that are searched and the texts that are shown.
#[derive(Default)]
pub(super) struct Block {
    /// Filename, description and username of each file, folded, each with [`END`] behind it.
    folded: Vec<u8>,
    capitals: Vec<u8>,
    texts: String,
    files: Vec<Entry>,
    removed: usize,
}

/// A file of a block.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// Larger for files that were published later.
    pub(super) order: u64,
    /// The number of the session that published the file.
    pub(super) session: u32,
    /// Where the file's text begins in `folded`.
    start: u32,
    original: Original,
    /// The length of the original filename, in bytes.
    filename: u16,
    /// The length of the original description, in bytes.
    description: u16,
}

impl Entry {
    fn is_removed(&self) -> bool {
        self.session == NO_SESSION
    }
}

impl Block {
    /// Whether the block takes no more files.
    pub(super) fn is_full(&self) -> bool {
        self.folded.len() >= FULL || self.files.len() == MAX_FILES
    }

    /// Whether so many files were removed that moving the others elsewhere saves memory and time.
    pub(super) fn is_sparse(&self) -> bool {
        self.is_full() && 2 * self.removed > self.files.len()
    }

    /// Adds a file and gives its position. The caller adds no file to a full block.
    pub(super) fn add(&mut self, order: u64, session: u32, username: &str, file: &File) -> usize {
        let File { filename, description } = file;
        let mut folded = String::with_capacity(filename.len() + description.len() + username.len() + 3);
        for text in [filename, description, username] {
            fold(text, &mut folded);
            folded.push(END.into());
        }
        let original = if folded.split(char::from(END)).take(2).eq([filename, description]) {
            Original::Folded
        } else if is_printable_ascii(filename) && is_printable_ascii(description) {
            let position = self.capitals.len() as u32;
            let bytes: Vec<u8> = filename.bytes().chain(description.bytes()).collect();
            let bit = |(byte, bit): (&u8, u8)| u8::from(byte.is_ascii_uppercase()) << bit;
            self.capitals.extend(bytes.chunks(8).map(|bytes| bytes.iter().zip(0..).map(bit).sum::<u8>()));
            Original::Capitals(position)
        } else {
            let position = self.texts.len() as u32;
            self.texts.push_str(filename);
            self.texts.push_str(description);
            Original::Text(position)
        };
        let start = self.folded.len() as u32;
        self.folded.extend_from_slice(folded.as_bytes());
        let (filename, description) = (filename.len() as u16, description.len() as u16);
        self.files.push(Entry { order, session, start, original, filename, description });
        if self.is_full() {
            self.folded.shrink_to_fit();
            self.capitals.shrink_to_fit();
            self.texts.shrink_to_fit();
            self.files.shrink_to_fit();
        }
        self.files.len() - 1
    }

    /// Removes a file.
    pub(super) fn remove(&mut self, position: usize) {
        let (start, end) = (self.files[position].start as usize, self.end(position));
        self.folded[start..end].fill(REMOVED);
        self.files[position].session = NO_SESSION;
        self.removed += 1;
    }

    /// The file at a position.
    pub(super) fn entry(&self, position: usize) -> &Entry {
        &self.files[position]
    }

    /// The files with their positions.
    pub(super) fn files(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.files.iter().enumerate().filter(|(_, entry)| !entry.is_removed())
    }

    /// The original filename of a file.
    pub(super) fn filename(&self, position: usize) -> Cow<'_, str> {
        self.original(position).0
    }

    /// A file as it was published.
    pub(super) fn file(&self, position: usize) -> File {
        let (filename, description) = self.original(position);
        File { filename: filename.into_owned(), description: description.into_owned() }
    }

    /// The original filename and description of a file.
    fn original(&self, position: usize) -> (Cow<'_, str>, Cow<'_, str>) {
        let Entry { start, original, filename, description, .. } = self.files[position];
        let (start, filename, description) =
            (start as usize, usize::from(filename), usize::from(description));
        let folded =
            |start: usize, length| str::from_utf8(&self.folded[start..][..length]).unwrap_or_default();
        let folded = || (folded(start, filename), folded(start + filename + 1, description));
        match original {
            Original::Folded => {
                let (filename, description) = folded();
                (filename.into(), description.into())
            }
            Original::Capitals(position) => {
                let capitals = &self.capitals[position as usize..];
                let is_capital = |at: usize| capitals[at / 8] >> (at % 8) & 1 == 1;
                let unfolded = |text: &str, from: usize| -> String {
                    let letter = |(at, letter): (usize, char)| {
                        if is_capital(from + at) { letter.to_ascii_uppercase() } else { letter }
                    };
                    text.chars().enumerate().map(letter).collect()
                };
                let (name, text) = folded();
                (unfolded(name, 0).into(), unfolded(text, filename).into())
            }
            Original::Text(position) => {
                let (name, text) =
                    self.texts[position as usize..][..filename + description].split_at(filename);
                (name.into(), text.into())
            }
        }
    }

    /// Whether a file contains every one of the words.
    pub(super) fn contains(&self, position: usize, words: &[Finder]) -> bool {
        let text = &self.folded[self.files[position].start as usize..self.end(position)];
        words.iter().all(|word| word.find(text).is_some())
    }

    /// Where the text of a file ends in `folded`.
    fn end(&self, position: usize) -> usize {
        self.files.get(position + 1).map_or(self.folded.len(), |next| next.start as usize)
    }

    /// Appends the positions of the files that contain every one of the words.
    pub(super) fn find(&self, words: &[Finder], found: &mut Vec<usize>) {
        let Some((first, others)) = words.split_first() else {
            found.extend(self.files().map(|(position, _)| position));
            return;
        };
        let mut from = 0;
        let mut position = 0;
        while let Some(at) = first.find(&self.folded[from..]) {
            let at = from + at;
            while self.end(position) <= at {
                position += 1;
            }
            if self.contains(position, others) {
                found.push(position);
            }
            from = self.end(position);
        }
    }
}

fn is_printable_ascii(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_control())
}

//! A block of the index: some hundred files whose folded texts stand one after the other, so that
//! one pass over contiguous memory finds a word in all of them.

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
/// Stands in the place of a position in `originals` when the folded texts are the original texts.
const FOLDED: u32 = u32::MAX;

/// Files with the texts that are searched and the texts that are shown.
#[derive(Default)]
pub(super) struct Block {
    /// Filename, description and username of each file, folded, each with [`END`] behind it.
    folded: Vec<u8>,
    /// Filename and description, one after the other, of the files that folding has changed.
    originals: String,
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
    /// Where the filename begins in `originals`, or [`FOLDED`].
    original: u32,
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
        let is_folded = folded.split(char::from(END)).take(2).eq([filename, description]);
        let original = if is_folded {
            FOLDED
        } else {
            let original = self.originals.len() as u32;
            self.originals.push_str(filename);
            self.originals.push_str(description);
            original
        };
        let start = self.folded.len() as u32;
        self.folded.extend_from_slice(folded.as_bytes());
        let (filename, description) = (filename.len() as u16, description.len() as u16);
        self.files.push(Entry { order, session, start, original, filename, description });
        if self.is_full() {
            self.folded.shrink_to_fit();
            self.originals.shrink_to_fit();
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
    pub(super) fn filename(&self, position: usize) -> &str {
        self.original(position).0
    }

    /// A file as it was published.
    pub(super) fn file(&self, position: usize) -> File {
        let (filename, description) = self.original(position);
        File { filename: filename.to_owned(), description: description.to_owned() }
    }

    fn original(&self, position: usize) -> (&str, &str) {
        let Entry { start, original, filename, description, .. } = self.files[position];
        let (filename, description) = (usize::from(filename), usize::from(description));
        if original != FOLDED {
            let original = &self.originals[original as usize..][..filename + description];
            return original.split_at(filename);
        }
        let text = |start: usize, length| str::from_utf8(&self.folded[start..][..length]).unwrap_or_default();
        let start = start as usize;
        (text(start, filename), text(start + filename + 1, description))
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

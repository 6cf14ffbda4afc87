//! The index: the texts of all published files in memory, searched from one end to the other.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
    hash::{BuildHasher as _, RandomState},
    panic, thread,
};

use hashbrown::HashTable;
use lonja_proto::SessionId;
use memchr::memmem::Finder;
use slab::Slab;

use super::{
    Found, Page, SearchQuery,
    block::{Block, MAX_FILES},
    text,
};
use crate::store::{File, FileChange, Listed};

/// The number of blocks from which on two threads search: 8 MiB of text, more than a millisecond.
/// Tests do so with fewer.
const BLOCKS_FOR_TWO: usize = if cfg!(test) { 2 } else { 128 };

/// All published files, in blocks.
#[derive(Default)]
pub(super) struct Index {
    blocks: Slab<Block>,
    /// The number of the block that takes the next file, if there is one.
    open: usize,
    sessions: Slab<Session>,
    /// The number of each session that has files.
    numbers: HashMap<SessionId, usize>,
    hasher: RandomState,
    generation: u64,
}

struct Session {
    id: SessionId,
    username: Box<str>,
    /// Where the session's files are, found by the hash of the filename.
    places: HashTable<Place>,
}

/// Where a file is: the number of a block and the position in the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u32);

impl Place {
    fn new(block: usize, position: usize) -> Self {
        Self((block * MAX_FILES + position) as u32)
    }

    fn block(self) -> usize {
        self.0 as usize / MAX_FILES
    }

    fn position(self) -> usize {
        self.0 as usize % MAX_FILES
    }
}

impl Index {
    /// A number that is different after each change.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Applies a change. A change that was applied before changes nothing, as long as all
    /// changes that came after it are applied again too.
    pub(super) fn apply(&mut self, change: &FileChange) {
        match change {
            FileChange::Published(session, username, listed) => self.add(*session, username, listed),
            FileChange::Deleted(session, filename) => self.delete(*session, filename),
            FileChange::Ended(session) => self.end(*session),
        }
    }

    /// Adds a file, in place of the session's file of that name if there is one.
    pub(super) fn add(&mut self, session: SessionId, username: &str, listed: &Listed) {
        self.delete(session, &listed.file.filename);
        let number = *self.numbers.entry(session).or_insert_with(|| {
            let places = HashTable::new();
            self.sessions.insert(Session { id: session, username: username.into(), places })
        });
        let place = self.put(number, listed.order, &listed.file);
        let (blocks, hasher) = (&self.blocks, &self.hasher);
        let hash = |place: &Place| hasher.hash_one(&*filename(blocks, *place));
        self.sessions[number].places.insert_unique(hash(&place), place, hash);
        self.generation += 1;
    }

    fn delete(&mut self, session: SessionId, name: &str) {
        let Some(&number) = self.numbers.get(&session) else { return };
        let (blocks, hash) = (&self.blocks, self.hasher.hash_one(name));
        let places = &mut self.sessions[number].places;
        let Ok(found) = places.find_entry(hash, |place| filename(blocks, *place) == name) else { return };
        let (place, _) = found.remove();
        if places.is_empty() {
            self.numbers.remove(&session);
            self.sessions.remove(number);
        }
        self.remove([place]);
    }

    fn end(&mut self, session: SessionId) {
        let Some(number) = self.numbers.remove(&session) else { return };
        let session = self.sessions.remove(number);
        self.remove(session.places);
    }

    /// Puts a file into the open block.
    fn put(&mut self, session: usize, order: u64, file: &File) -> Place {
        if self.blocks.get(self.open).is_none_or(Block::is_full) {
            self.open = self.blocks.insert(Block::default());
        }
        let username = &self.sessions[session].username;
        let position = self.blocks[self.open].add(order, session as u32, username, file);
        Place::new(self.open, position)
    }

    /// Removes files that no session refers to any more.
    fn remove(&mut self, places: impl IntoIterator<Item = Place>) {
        let mut sparse = BTreeSet::new();
        for place in places {
            let block = &mut self.blocks[place.block()];
            block.remove(place.position());
            if block.is_sparse() {
                sparse.insert(place.block());
            }
        }
        sparse.into_iter().for_each(|block| self.compact(block));
        self.generation += 1;
    }

    /// Moves the files that a block still has to the open block.
    fn compact(&mut self, number: usize) {
        let block = self.blocks.remove(number);
        for (position, entry) in block.files() {
            let file = block.file(position);
            let (old, new) =
                (Place::new(number, position), self.put(entry.session as usize, entry.order, &file));
            let hash = self.hasher.hash_one(&*file.filename);
            let places = &mut self.sessions[entry.session as usize].places;
            if let Some(place) = places.find_mut(hash, |place| *place == old) {
                *place = new;
            }
        }
    }

    /// Finds the files that match, newest first.
    pub(super) fn search(&self, query: &SearchQuery) -> Page {
        let words = text::words(&query.text);
        let words: Vec<_> = words.iter().map(Finder::new).collect();
        let mut newest = Newest::new(query.offset.saturating_add(query.limit));
        match query.session {
            Some(session) => {
                let number = self.numbers.get(&session);
                let places = number.into_iter().flat_map(|number| &self.sessions[*number].places);
                let matching =
                    places.filter(|place| self.blocks[place.block()].contains(place.position(), &words));
                matching.for_each(|place| newest.add(self.order(*place), *place));
            }
            None => newest = self.scan(&words, newest.limit),
        }
        let total = newest.total;
        let found = newest.into_sorted().into_iter().skip(query.offset).map(|place| self.found(place));
        Page { generation: self.generation, total, found: found.collect() }
    }

    /// Searches all blocks; where there are many, a second thread searches half of them.
    fn scan(&self, words: &[Finder], limit: usize) -> Newest {
        let blocks: Vec<_> = self.blocks.iter().collect();
        if blocks.len() < BLOCKS_FOR_TWO {
            return Newest::of(&blocks, words, limit);
        }
        let (older, newer) = blocks.split_at(blocks.len() / 2);
        thread::scope(|scope| {
            let search = || Newest::of(older, words, limit);
            let other = thread::Builder::new().name("search".to_owned()).spawn_scoped(scope, search);
            let mut newest = Newest::of(newer, words, limit);
            newest.merge(match other {
                Ok(other) => other.join().unwrap_or_else(|panic| panic::resume_unwind(panic)),
                // No thread can be had, so this one searches everything.
                Err(_) => search(),
            });
            newest
        })
    }

    fn order(&self, place: Place) -> u64 {
        self.blocks[place.block()].entry(place.position()).order
    }

    fn found(&self, place: Place) -> Found {
        let block = &self.blocks[place.block()];
        let session = &self.sessions[block.entry(place.position()).session as usize];
        Found {
            session: session.id.to_string(),
            username: session.username.to_string(),
            file: block.file(place.position()),
        }
    }
}

fn filename(blocks: &Slab<Block>, place: Place) -> Cow<'_, str> {
    blocks[place.block()].filename(place.position())
}

/// Keeps the newest of the files that it is given, and counts all of them.
struct Newest {
    limit: usize,
    total: u64,
    /// The files that are kept. The oldest comes out first.
    kept: BinaryHeap<Reverse<(u64, Place)>>,
}

impl Newest {
    fn new(limit: usize) -> Self {
        Self { limit, total: 0, kept: BinaryHeap::new() }
    }

    /// The newest files of some blocks that contain every one of the words. The newest files are
    /// mostly in the last blocks. After these, most files are older than all that are kept, and
    /// cost little.
    fn of(blocks: &[(usize, &Block)], words: &[Finder], limit: usize) -> Self {
        let (mut newest, mut found) = (Self::new(limit), Vec::new());
        for (number, block) in blocks.iter().rev() {
            block.find(words, &mut found);
            for position in found.drain(..) {
                newest.add(block.entry(position).order, Place::new(*number, position));
            }
        }
        newest
    }

    /// Keeps the newest files of both, and adds the numbers of files that both were given.
    fn merge(&mut self, other: Self) {
        let total = self.total + other.total;
        for Reverse((order, place)) in other.kept {
            self.add(order, place);
        }
        self.total = total;
    }

    fn add(&mut self, order: u64, place: Place) {
        self.total += 1;
        if self.kept.len() < self.limit {
            self.kept.push(Reverse((order, place)));
        } else if let Some(mut oldest) = self.kept.peek_mut()
            && oldest.0.0 < order
        {
            *oldest = Reverse((order, place));
        }
    }

    /// The places that are kept, the newest file first.
    fn into_sorted(self) -> Vec<Place> {
        self.kept.into_sorted_vec().into_iter().map(|Reverse((_, place))| place).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A model of the index: a list that is looked through.
    #[derive(Default)]
    struct Model(Vec<(SessionId, String, Listed)>);

    impl Model {
        fn apply(&mut self, change: &FileChange) {
            match change {
                FileChange::Published(session, username, listed) => {
                    self.delete(*session, &listed.file.filename);
                    self.0.push((*session, username.to_string(), listed.clone()));
                }
                FileChange::Deleted(session, filename) => self.delete(*session, filename),
                FileChange::Ended(ended) => self.0.retain(|(session, ..)| session != ended),
            }
        }

        fn delete(&mut self, of: SessionId, filename: &str) {
            self.0.retain(|(session, _, listed)| *session != of || listed.file.filename != filename);
        }

        /// The number of all files that match, and the filenames of the page.
        fn search(&self, query: &SearchQuery) -> (u64, Vec<File>) {
            let words = text::words(&query.text);
            let matches = |(session, username, listed): &&(SessionId, String, Listed)| {
                let File { filename, description } = &listed.file;
                let texts = [filename, description, username].map(|text| {
                    let mut folded = String::new();
                    lonja_chassis::fold::fold(text, &mut folded);
                    folded
                });
                query.session.is_none_or(|of| of == *session)
                    && words.iter().all(|word| texts.iter().any(|text| text.contains(word.as_str())))
            };
            let mut found: Vec<_> = self.0.iter().filter(matches).collect();
            found.sort_by_key(|(.., listed)| Reverse(listed.order));
            let page = found.iter().skip(query.offset).take(query.limit);
            (found.len() as u64, page.map(|(.., listed)| listed.file.clone()).collect())
        }
    }

    fn session(number: u8) -> SessionId {
        SessionId::from_bytes([number; 16])
    }

    /// Changes to few sessions with few names, so that names come again, and with descriptions so
    /// long that blocks fill.
    fn changes() -> impl Strategy<Value = Vec<(u8, u16, u8)>> {
        proptest::collection::vec((0..6u8, 0..300u16, 0..=255u8), 0..4000)
    }

    fn change(order: u64, (of, name, kind): (u8, u16, u8)) -> FileChange {
        // Names that folding leaves alone, and names with capitals.
        let filename = if name % 3 == 0 { format!("name {name}") } else { format!("Name {name}") };
        match kind {
            0 => FileChange::Ended(session(of)),
            1..100 => FileChange::Deleted(session(of), filename),
            _ => {
                let description = format!("Ünique{kind} {}", "x".repeat(usize::from(kind)));
                let description = if name % 5 == 0 { description.replace('Ü', "U") } else { description };
                let file = File { filename, description };
                FileChange::Published(session(of), format!("user{of}").into(), Listed { order, file })
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn finds_what_looking_through_a_list_finds(all in changes(), word in "[a-z0-9]{0,2}", name in 0..300u16) {
            let (mut index, mut model) = (Index::default(), Model::default());
            for (order, given) in all.into_iter().enumerate() {
                let change = change(order as u64, given);
                index.apply(&change);
                model.apply(&change);
            }
            for (text, session) in [
                (word.clone(), None),
                (word.clone(), Some(session(1))),
                (format!("name {name}"), None),
                (format!("UNIQUE15 {word} user1"), None),
                (String::new(), None),
            ] {
                let query = SearchQuery { text, session, offset: 3, limit: 20 };
                let page = index.search(&query);
                let found: Vec<_> = page.found.into_iter().map(|found| found.file).collect();
                prop_assert_eq!((page.total, found), model.search(&query), "{:?}", query);
            }
        }
    }

    #[test]
    fn what_is_removed_takes_no_memory() {
        let mut index = Index::default();
        for round in 0..40 {
            for number in 0..1000 {
                let change = change(round * 1000 + number, (number as u8 % 6, number as u16, 255));
                index.apply(&change);
            }
            // One file in a thousand stays.
            for number in 1..1000 {
                index.apply(&change(0, (number as u8 % 6, number as u16, 1)));
            }
        }
        assert!(index.blocks.len() <= 2, "{} blocks", index.blocks.len());
        (0..6).for_each(|of| index.apply(&FileChange::Ended(session(of))));
        assert!(index.sessions.is_empty() && index.blocks.len() <= 1);
    }

    #[test]
    fn a_change_that_is_applied_again_changes_nothing_in_the_end() {
        let published = |order, name| change(order, (1, name, 200));
        let all = [published(1, 1), published(2, 2), change(0, (1, 1, 1)), published(3, 1)];
        let mut index = Index::default();
        all.iter().chain(&all).for_each(|change| index.apply(change));
        let page = index.search(&SearchQuery { text: String::new(), session: None, offset: 0, limit: 9 });
        let found: Vec<_> = page.found.into_iter().map(|found| found.file.filename).collect();
        assert_eq!(found, ["Name 1", "Name 2"]);
    }
}

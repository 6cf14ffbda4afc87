//! Tests of the journal as a whole: what its files hold at any moment.

use std::{collections::BTreeMap, fs, path::Path};

use tempfile::TempDir;

use crate::{Journal, JournalError, Log, OpenError, Row, State, error::Damage, wal::SEGMENT};

/// Texts by number; a later one replaces an earlier one.
#[derive(Debug, Default)]
struct Texts {
    texts: BTreeMap<u64, (Row, String)>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(string, tag = "2")]
    text: String,
}

impl State for Texts {
    const LOG: &'static str = "texts";
    type Change = Text;
    type Command = Text;
    type Outcome = ();
    type Staged = ();

    fn decide(&self, (): &mut (), text: Text, changes: &mut Vec<Text>) {
        changes.push(text);
    }

    fn apply(&mut self, Text { number, text }: Text, row: Row) {
        self.texts.insert(number, (row, text));
    }

    fn is_live(&self, change: &Text, row: Row) -> bool {
        self.texts.get(&change.number).is_some_and(|(at, _)| *at == row)
    }

    fn capacity(&self) -> u64 {
        2 * self.texts.len() as u64 + 16
    }
}

fn open(directory: &Path) -> Result<(Log<Texts>, Journal), OpenError> {
    let mut journal = Journal::open(directory, "test")?;
    let log = journal.add(Texts::default())?;
    Ok((log, journal.start()?))
}

async fn put(log: &Log<Texts>, number: u64, text: &str) {
    log.submit(Text { number, text: text.to_owned() }).await.unwrap();
}

/// Copies the files as a kill at this moment would leave them.
fn killed(directory: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    // The segments are copied first: a row that is folded meanwhile is then in both copies.
    for name in ["test.wal0", "test.wal1", "test.redb"] {
        fs::copy(directory.join(name), copy.path().join(name)).unwrap();
    }
    copy
}

fn texts(log: &Log<Texts>) -> Vec<(u64, String)> {
    log.state().texts.iter().map(|(number, (_, text))| (*number, text.clone())).collect()
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_kill_and_after_the_next() {
    let directory = TempDir::new().unwrap();
    let (log, _journal) = open(directory.path()).unwrap();
    for number in 0..20 {
        put(&log, number, "first").await;
    }
    let second = killed(directory.path());
    let (log, _journal) = open(second.path()).unwrap();
    assert_eq!(texts(&log).len(), 20);
    put(&log, 7, "second").await;
    let third = killed(second.path());
    let (log, _journal) = open(third.path()).unwrap();
    assert_eq!(log.state().texts[&7].1, "second");
    assert_eq!(texts(&log).len(), 20);
}

#[tokio::test]
async fn segments_are_folded_while_rows_are_read_and_cleaned() {
    let directory = TempDir::new().unwrap();
    let (log, _journal) = open(directory.path()).unwrap();
    let long = "x".repeat(SEGMENT as usize / 32);
    let mut kills = Vec::new();
    for number in 0..200 {
        put(&log, number % 40, &format!("{number}{long}")).await;
        if number % 5 > 0 {
            continue;
        }
        let rows = log.read_rows(1, usize::MAX).unwrap();
        let numbers: Vec<Row> = rows.iter().map(|(row, _)| *row).collect();
        let expected: Vec<Row> = (numbers[0]..=number + 1).collect();
        assert_eq!(numbers, expected, "every row once, whichever file it is in");
        if number % 60 == 55 {
            kills.push((texts(&log), killed_at_rest(directory.path())));
        }
    }
    assert!(log.read_rows(1, 1).unwrap()[0].0 > 1, "old rows have gone");
    for (expected, files) in kills {
        let (log, _journal) = open(files.path()).unwrap();
        assert!(texts(&log) == expected, "the files of a kill hold what was there");
    }
}

/// Copies the files as [`killed`] does, at a moment when nothing is folded: copying takes longer
/// than a kill, and must not overlap with a fold.
fn killed_at_rest(directory: &Path) -> TempDir {
    loop {
        let before = fs::metadata(directory.join("test.redb")).unwrap().modified().unwrap();
        let copy = killed(directory);
        if fs::metadata(directory.join("test.redb")).unwrap().modified().unwrap() == before {
            return copy;
        }
    }
}

#[tokio::test]
async fn a_closed_journal_is_one_file() {
    let directory = TempDir::new().unwrap();
    let (log, journal) = open(directory.path()).unwrap();
    put(&log, 1, "one").await;
    journal.close();
    assert_eq!(log.submit(Text::default()).await, Err(JournalError::Closed));
    drop(log);
    let files: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["test.redb"]);
    let (log, _journal) = open(directory.path()).unwrap();
    assert_eq!(texts(&log), [(1, "one".to_owned())]);
}

/// Bug: after a first start that was cut short, each later start said that the data file is damaged.
#[tokio::test]
async fn a_first_start_that_was_cut_short_is_no_damage() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("test.redb");
    fs::write(&path, vec![0; 100_000]).unwrap();
    let (log, journal) = open(directory.path()).unwrap();
    put(&log, 1, "one").await;
    journal.close();
    drop(log);

    // A file with content is never taken for an unfinished one.
    let mut bytes = fs::read(&path).unwrap();
    bytes[..9].fill(0);
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(open(directory.path()), Err(OpenError::Damaged(..))));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn a_damaged_or_foreign_segment_is_refused() {
    let directory = TempDir::new().unwrap();
    let (log, _journal) = open(directory.path()).unwrap();
    for number in 0..3 {
        put(&log, number, "a text to be found").await;
    }
    let files = killed(directory.path());
    let path = files.path().join("test.wal0");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(18).position(|bytes| bytes == b"a text to be found").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(open(files.path()), Err(OpenError::Damaged(..))), "the first of three frames");

    // The segments of a journal whose table file is lost, with the rows that were folded before.
    let files = killed(directory.path());
    let (log, journal) = open(files.path()).unwrap();
    put(&log, 3, "beyond what the other file has").await;
    let later = killed(files.path());
    drop((log, journal));
    fs::remove_file(later.path().join("test.redb")).unwrap();
    assert!(matches!(open(later.path()), Err(OpenError::Damaged(..))));
}

/// Bug: the changes since the last fold were lost without a word if a killed journal was copied without its
/// write-ahead log, or if something else had been written there.
#[tokio::test]
async fn a_write_ahead_log_that_is_gone_is_noticed() {
    let directory = TempDir::new().unwrap();
    let (log, _journal) = open(directory.path()).unwrap();
    put(&log, 1, "one").await;
    for name in ["test.wal0", "test.wal1"] {
        let files = killed(directory.path());
        let path = files.path().join(name);
        fs::remove_file(&path).unwrap();
        for _ in 0..2 {
            let error = open(files.path()).err().unwrap().to_string();
            assert!(error.contains(&format!("{name}, which is missing or cut short")), "{error}");
        }
        fs::write(&path, vec![0; SEGMENT as usize - 1]).unwrap();
        assert!(matches!(open(files.path()), Err(OpenError::Damaged(_, Damage::Lost(_)))));
        fs::copy(directory.path().join(name), &path).unwrap();
        assert_eq!(texts(&open(files.path()).unwrap().0), [(1, "one".to_owned())]);
    }
    let files = killed(directory.path());
    let path = files.path().join("test.wal0");
    let mut bytes = fs::read(&path).unwrap();
    bytes[..2000].fill(b'x');
    fs::write(&path, bytes).unwrap();
    assert!(matches!(open(files.path()), Err(OpenError::Damaged(_, Damage::Foreign))));
}

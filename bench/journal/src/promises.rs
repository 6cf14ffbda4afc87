//! What fjall does with a byte that was damaged in its journal, and with a disk that was full for a
//! while. The journal's own answers are tests (crates/journal/src/tests.rs, tests/system/crash.rs).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

const ROWS: u64 = 1000;

fn open(directory: &Path) -> fjall::Result<(Database, Keyspace)> {
    let database = Database::builder(directory).open()?;
    let rows = database.keyspace("rows", KeyspaceCreateOptions::default)?;
    Ok((database, rows))
}

fn write(database: &Database, rows: &Keyspace, row: u64, length: usize) -> fjall::Result<()> {
    let mut batch = database.batch().durability(Some(PersistMode::SyncData));
    batch.insert(rows, row.to_be_bytes(), vec![b'x'; length]);
    batch.commit()
}

/// Says what happens in both cases. The second needs a small disk: its directory is in the environment
/// variable `SMALL_DISK`, such as a tmpfs of 24 MiB.
pub(crate) fn show() -> anyhow::Result<()> {
    let directory = tempfile::tempdir_in(".")?;
    {
        let (database, rows) = open(directory.path())?;
        for row in 1..=ROWS {
            write(&database, &rows, row, 200)?;
        }
        // As a kill leaves the files.
        std::mem::forget((database, rows));
    }
    let copy = tempfile::tempdir_in(".")?;
    copy_all(directory.path(), copy.path())?;
    let journal = copy.path().join("0.jnl");
    let mut bytes = fs::read(&journal)?;
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or_default();
    bytes[used / 2] ^= 0x40;
    fs::write(&journal, bytes)?;
    match open(copy.path()) {
        Ok((_, rows)) => {
            println!("a damaged bit in the middle: opens with {} of {ROWS} rows", rows.iter().count())
        }
        Err(error) => println!("a damaged bit in the middle: does not open: {error}"),
    }
    if let Some(disk) = std::env::var_os("SMALL_DISK") {
        full_disk(&PathBuf::from(disk))?;
    }
    Ok(())
}

fn full_disk(disk: &Path) -> anyhow::Result<()> {
    let filler = disk.join("filler");
    let (database, rows) = open(&disk.join("fjall"))?;
    fs::write(&filler, vec![1; 4 << 20])?;
    let mut row = 1;
    let error = loop {
        match write(&database, &rows, row, 4096) {
            Ok(()) => row += 1,
            Err(error) => break error,
        }
    };
    fs::remove_file(&filler)?;
    println!("a full disk: {error:?}; with room again: {:?}", write(&database, &rows, row, 100));
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy_all(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

//! The thread that folds full segments of the write-ahead log into the table file.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, Sender},
    },
    thread,
    time::Duration,
};

use crate::{segment::Segment, signal::Signal, table_file::TableFile, wal::Full};

/// Time between attempts while the table file cannot be written.
const RETRY: Duration = Duration::from_secs(1);

/// Folds full segments until the writer has gone. When a journal is closed and everything is
/// folded, the segments are removed: the table file alone then holds all rows.
pub(crate) fn fold_until_closed(
    file: &TableFile,
    segments: &[PathBuf],
    signal: &Arc<Signal>,
    full: &Receiver<Full>,
    spare: &Sender<Segment>,
) {
    while let Ok(Full { segment, spans, last }) = full.recv() {
        while let Err(error) = file.fold(&spans) {
            tracing::error!(
                "{error}; until the table file can be written, changes stay in the write-ahead log"
            );
            if signal.is_closed() {
                return;
            }
            thread::sleep(RETRY);
        }
        if last {
            // A segment that cannot be removed is read at the next start, to no effect.
            segments.iter().for_each(|path| drop(fs::remove_file(path)));
            return;
        }
        // Sending fails only if the writer has gone, and then no segment is needed.
        let _ = spare.send(segment);
    }
}

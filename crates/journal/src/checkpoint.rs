//! Folding full segments of the write-ahead log into the table file.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, Sender},
    },
    thread,
    time::Duration,
};

use crate::{
    disk::Disk, error::OpenError, segment::Segment, signal::Signal, table_file::TableFile, wal::Full,
};

/// Time between attempts while the table file cannot be written.
const RETRY: Duration = Duration::from_secs(1);

/// What folds full segments into the table file, and gives them back to the writer.
pub(crate) struct Checkpoint {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) file: Arc<TableFile>,
    pub(crate) segments: [PathBuf; 2],
    pub(crate) signal: Arc<Signal>,
    pub(crate) full: Receiver<Full>,
    pub(crate) spare: Sender<Segment>,
}

impl Checkpoint {
    /// Folds full segments until the writer has gone. When a journal is closed and everything is
    /// folded, the segments are removed: the table file alone then holds all rows.
    pub(crate) fn run(self) {
        while let Ok(full) = self.full.recv() {
            while let Err(error) = self.fold(&full) {
                tracing::error!(
                    "{error}; until the table file can be written, changes stay in the write-ahead log"
                );
                if self.signal.is_closed() {
                    return;
                }
                thread::sleep(RETRY);
            }
            self.release(full);
        }
    }

    /// Brings the rows of a full segment into the table file.
    pub(crate) fn fold(&self, full: &Full) -> Result<(), OpenError> {
        self.file.fold(&full.spans, full.last)
    }

    /// Gives a segment that was folded back to the writer, or removes both segments after the last.
    pub(crate) fn release(&self, Full { segment, last, .. }: Full) {
        if last {
            // A segment that cannot be removed is read at the next start, to no effect.
            self.segments.iter().for_each(|path| drop(self.disk.remove(path)));
        } else {
            // Sending fails only if the writer has gone, and then no segment is needed.
            let _ = self.spare.send(segment);
        }
    }
}

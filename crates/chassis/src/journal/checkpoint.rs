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

use super::{
    segment::Segment,
    table_file::{Span, TableFile},
    writer::Signal,
};

/// Time between attempts while the table file cannot be written.
const RETRY: Duration = Duration::from_secs(1);

/// A segment that takes nothing more, and what the table file holds once it is folded.
#[derive(Debug)]
pub(super) struct Full {
    pub(super) segment: Segment,
    pub(super) spans: Vec<Span>,
    /// Nothing comes after it.
    pub(super) last: bool,
}

/// Folds until the writer has gone. A journal that is closed with everything folded
/// leaves no segment behind: then the table file alone holds it all.
pub(super) fn fold_until_closed(
    file: &TableFile,
    segments: &[PathBuf],
    signal: &Arc<Signal>,
    full: &Receiver<Full>,
    spare: &Sender<Segment>,
) {
    while let Ok(Full { segment, spans, last }) = full.recv() {
        while let Err(error) = file.fold(&spans) {
            tracing::error!("{error}; meanwhile the write-ahead log keeps what it should hold");
            if signal.is_closed() {
                return;
            }
            thread::sleep(RETRY);
        }
        if last {
            // One that stays is read at the next start, to no effect.
            segments.iter().for_each(|path| drop(fs::remove_file(path)));
            return;
        }
        // The writer takes it when it needs it, or has gone.
        let _ = spare.send(segment);
    }
}

//! A commit: what each log has a part in, and what is written of it.

use bytes::Bytes;

use crate::{error::JournalError, state::Row, table_file::Span};

/// One commit, as the payload of a frame: a row for each log that changed.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Commit {
    #[prost(message, repeated, tag = "1")]
    pub(crate) rows: Vec<LogRow>,
    /// In the first frame of a segment, the newest row of each log before the commit, without its bytes.
    /// Without these rows, nobody could tell that the last frame of the other segment is damaged.
    #[prost(message, repeated, tag = "2")]
    pub(crate) before: Vec<LogRow>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LogRow {
    #[prost(string, tag = "1")]
    pub(crate) log: String,
    #[prost(uint64, tag = "2")]
    pub(crate) row: Row,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) bytes: Bytes,
}

/// A log's part in a commit: `take`, `decide`, and then `publish` and `answer`, or `fail`.
pub(crate) trait Participant: Send {
    /// Takes the commands that wait, and gives their number.
    fn take(&mut self) -> usize;
    /// Decides the commands that were taken, and gives the row to write if anything changes.
    fn decide(&mut self) -> Option<LogRow>;
    /// Applies the changes, once the row is durable.
    fn publish(&mut self);
    /// Answers the commands, once all logs have applied their changes.
    fn answer(&mut self);
    /// Forgets the changes and answers the commands with an error, if the row could not be written.
    fn fail(&mut self, error: &JournalError);
    /// The rows that the table file is to hold once the current segment is folded.
    fn span(&self) -> Span;
    /// Refuses the commands that wait and those that still come: nothing is committed any more.
    fn close(&mut self);
}

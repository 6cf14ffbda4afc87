//! What a service keeps, and the rules by which it changes.

/// Number of a row in a log. A later row has a higher number.
pub type Row = u64;

/// What a service keeps, and the rules by which it changes.
pub trait State: Send + Sync + 'static {
    /// The name of the log, and of its table in the file. One file may hold several logs.
    const LOG: &'static str;
    /// What one record of the log says: a change that is made again when the log is opened.
    type Change: prost::Message + Default + Clone;
    /// What callers ask of the service.
    type Command: Send + 'static;
    /// What the caller is told about a command.
    type Outcome: Send + 'static;
    /// What the earlier commands of the same commit will change.
    type Staged: Default + Send;

    /// Decides a command against the state and what earlier commands have `staged`, and appends the
    /// changes of the command to `changes`. The state does not change yet.
    fn decide(
        &self,
        staged: &mut Self::Staged,
        command: Self::Command,
        changes: &mut Vec<Self::Change>,
    ) -> Self::Outcome;

    /// Applies a change that is durable in `row`. A change that has moved from an older row is
    /// applied once more, and then changes nothing but the row that holds it.
    fn apply(&mut self, change: Self::Change, row: Row);

    /// Whether a change in `row` still matters, and so must not be forgotten when the row is
    /// cleaned.
    fn is_live(&self, change: &Self::Change, row: Row) -> bool;

    /// What a change counts towards [`Self::capacity`].
    fn weight(_change: &Self::Change) -> u64 {
        1
    }

    /// The weight of changes that the log may hold before its oldest rows are cleaned.
    fn capacity(&self) -> u64;
}

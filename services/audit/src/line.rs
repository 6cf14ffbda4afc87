//! The line that is printed for a record.

use std::fmt::Write as _;

use lonja_proto::audit::{Operation, OperationRecord};
use lonja_wire::Printable;

/// The line that is printed for a record (docs/protocol.md 4).
pub(crate) fn line(record: &OperationRecord) -> String {
    let mut line = String::new();
    let operation = record.operation();
    let name = operation.as_str_name().trim_start_matches("OPERATION_");
    let user = Printable(&record.username);
    let datetime = Printable(&record.claimed_datetime);
    let file = Printable(&record.subject);
    // Writing to a string cannot fail.
    let _ = match operation {
        Operation::Publish | Operation::Delete => write!(line, "{user}\t{name}\t{file}\t{datetime}"),
        _ => write!(line, "{user}\t{name}\t{datetime}"),
    };
    line
}

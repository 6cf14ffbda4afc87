//! The lines of an export: JSON objects with one key, which says what the line is about.
//!
//! docs/operations.md ("Back up, restore and move") has the format.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use lonja_proto::{
    audit::OperationRecord,
    console::{ExportedFile, ExportedSession, ExportedUser, exported_entry::Entry},
};
use serde::{Deserialize, Serialize};

use crate::audit::{operation_name, operation_named};

/// The version of the format that this program writes, and the newest that it reads.
pub(super) const VERSION: u32 = 1;

/// A line of an export.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The first line.
    LonjaExport(Heading),
    /// A registered user, behind which the user's files follow.
    User(User),
    /// A file of the user before, in the order of publishing.
    File(File),
    /// A recorded operation, behind all users, in the order of recording.
    Operation(Record),
    /// The last line. An export without this line was cut short.
    End(Counts),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Heading {
    pub(super) version: u32,
    pub(super) made_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    pub(super) name: String,
    /// Absent for a user who is not connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<Session>,
    /// The address to which the user belongs; absent if the user belongs to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    pub(super) id: String,
    /// Where others dial the user: IPv4 address and port.
    pub(super) address: String,
    pub(super) opened_at: Timestamp,
    /// The dialect that was noted for the session; empty if none was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) dialect: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) description: String,
}

/// A recorded operation, in the words of `lonja audit list --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) handled_at: Timestamp,
    pub(super) operation: String,
    pub(super) username: String,
    pub(super) subject: String,
    pub(super) status: u32,
    pub(super) peer_address: String,
    pub(super) claimed_datetime: String,
    pub(super) trace_id: String,
    pub(super) dialect: String,
    /// The operator who had this done; absent if a peer asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) operator: String,
}

/// How much of everything an export holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    pub(super) users: u64,
    pub(super) sessions: u64,
    pub(super) files: u64,
    pub(super) operations: u64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { users, sessions, files, operations } = self;
        write!(f, "{users} users, {sessions} sessions, {files} files and {operations} operations")
    }
}

impl Counts {
    /// Counts a line too.
    pub(super) fn add(&mut self, line: &Line) {
        match line {
            Line::User(user) => {
                self.users += 1;
                self.sessions += u64::from(user.session.is_some());
            }
            Line::File(_) => self.files += 1,
            Line::Operation(_) => self.operations += 1,
            Line::LonjaExport(_) | Line::End(_) => {}
        }
    }
}

impl From<Entry> for Line {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::User(user) => Self::User(user.into()),
            Entry::File(ExportedFile { filename, description }) => {
                Self::File(File { name: filename, description })
            }
            Entry::Operation(record) => Self::Operation(record.into()),
        }
    }
}

impl From<ExportedUser> for User {
    fn from(user: ExportedUser) -> Self {
        let session = user.session.map(|session| {
            let ExportedSession { session_id, address, opened_at_ms, dialect } = session;
            let opened_at = Timestamp::from_millisecond(opened_at_ms).unwrap_or_default();
            Session { id: session_id, address, opened_at, dialect }
        });
        Self { name: user.username, session, owner: user.owner.parse().ok() }
    }
}

impl From<OperationRecord> for Record {
    fn from(record: OperationRecord) -> Self {
        let handled_at = record.handled_at.as_ref().map(|at| Timestamp::new(at.seconds, at.nanos));
        Self {
            handled_at: handled_at.and_then(Result::ok).unwrap_or_default(),
            operation: operation_name(&record).to_owned(),
            username: record.username,
            subject: record.subject,
            status: record.status,
            peer_address: record.peer_address,
            claimed_datetime: record.claimed_datetime,
            trace_id: record.trace_id,
            dialect: record.dialect,
            operator: record.operator,
        }
    }
}

impl TryFrom<Record> for OperationRecord {
    type Error = String;

    fn try_from(record: Record) -> Result<Self, String> {
        let operation = operation_named(&record.operation);
        let operation = operation.ok_or_else(|| format!("unknown operation {:?}", record.operation))?;
        // No operation has a higher status (docs/protocol.md 3).
        if record.status > 4 {
            return Err(format!("no operation has the status {}", record.status));
        }
        let at = record.handled_at;
        Ok(Self {
            operation: operation.into(),
            username: record.username,
            subject: record.subject,
            claimed_datetime: record.claimed_datetime,
            handled_at: Some(prost_types::Timestamp {
                seconds: at.as_second(),
                nanos: at.subsec_nanosecond(),
            }),
            peer_address: record.peer_address,
            status: record.status,
            trace_id: record.trace_id,
            dialect: record.dialect,
            operator: record.operator,
        })
    }
}

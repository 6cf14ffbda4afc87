//! Why a service refuses what was asked: one closed list for every service and caller.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The domain of `google.rpc.ErrorInfo` in Lonja's answers.
const DOMAIN: &str = "lonja";

/// An expected refusal. A reason travels as a canonical code with a `google.rpc.ErrorInfo` that
/// holds the reason's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The username is already registered.
    UserExists,
    /// The user who asks is not registered.
    UserNotFound,
    /// The user is already connected.
    SessionExists,
    /// The user is registered but not connected.
    SessionNotFound,
    /// The user whom the question is about is not registered.
    RemoteUserNotFound,
    /// The session ended while the request was on its way.
    SessionEnded,
    /// The user belongs to another address.
    NotOwner,
    /// The session has already published a file of that name.
    FileExists,
    /// The session has not published a file of that name.
    FileNotFound,
    /// The session has published as many files as the catalog allows.
    TooManyFiles,
}

/// A row for each reason, in the order of [`Reason`]: the name on the wire, the canonical code and
/// the text for people.
const TABLE: [(Reason, &str, Code, &str); 10] = [
    (Reason::UserExists, "USER_EXISTS", Code::AlreadyExists, "the user is already registered"),
    (Reason::UserNotFound, "USER_NOT_FOUND", Code::NotFound, "the user is not registered"),
    (Reason::SessionExists, "SESSION_EXISTS", Code::AlreadyExists, "the user is already connected"),
    (Reason::SessionNotFound, "SESSION_NOT_FOUND", Code::FailedPrecondition, "the user is not connected"),
    (
        Reason::RemoteUserNotFound,
        "REMOTE_USER_NOT_FOUND",
        Code::NotFound,
        "the remote user is not registered",
    ),
    (Reason::SessionEnded, "SESSION_ENDED", Code::FailedPrecondition, "the session has ended"),
    (Reason::NotOwner, "NOT_OWNER", Code::PermissionDenied, "the user belongs to another address"),
    (Reason::FileExists, "FILE_EXISTS", Code::AlreadyExists, "the file is already published"),
    (Reason::FileNotFound, "FILE_NOT_FOUND", Code::NotFound, "the file is not published"),
    (
        Reason::TooManyFiles,
        "TOO_MANY_FILES",
        Code::ResourceExhausted,
        "the session has published as many files as allowed",
    ),
];

/// The error for a status that carries no [`Reason`]. Such a status is a failure, not a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownReason;

impl Reason {
    /// The reason's name on the wire, such as `USER_EXISTS`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The reason with this name on the wire, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    fn row(self) -> &'static (Self, &'static str, Code, &'static str) {
        &TABLE[self as usize]
    }
}

impl From<Reason> for Status {
    fn from(reason: Reason) -> Self {
        let (_, name, code, text) = reason.row();
        let details = ErrorDetails::with_error_info(*name, DOMAIN, [] as [(String, String); 0]);
        Self::with_error_details(*code, *text, details)
    }
}

impl TryFrom<&Status> for Reason {
    type Error = UnknownReason;

    fn try_from(status: &Status) -> Result<Self, UnknownReason> {
        let info = status.get_details_error_info().ok_or(UnknownReason)?;
        Self::from_name(&info.reason).filter(|_| info.domain == DOMAIN).ok_or(UnknownReason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, index, "the table is in the order of the enum");
            let status = Status::from(row.0);
            assert_eq!(status.code(), row.2);
            assert_eq!(Reason::try_from(&status), Ok(row.0));
        }
    }

    #[test]
    fn a_failure_is_no_reason() {
        assert_eq!(Reason::try_from(&Status::not_found("a route")), Err(UnknownReason));
    }
}

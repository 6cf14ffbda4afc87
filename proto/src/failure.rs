//! How a store's answer becomes a gRPC status.

use std::fmt;

use tonic::Status;

use crate::Reason;

/// Why a store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// An expected outcome, decided by what the store holds.
    Refused(Reason),
    /// The store cannot be reached, read or written. Nothing is known to have changed.
    Unavailable(String),
}

impl Failure {
    /// A refusal by the name of its reason, as a store's script gives it.
    #[must_use]
    pub fn refused(name: &str) -> Self {
        match Reason::from_name(name) {
            Some(reason) => Self::Refused(reason),
            None => Self::Unavailable(format!("the store gave an unknown reason: {name}")),
        }
    }

    /// The store is unavailable because of this error.
    pub fn unavailable(error: impl fmt::Display) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(reason) => f.write_str(reason.name()),
            Self::Unavailable(why) => f.write_str(why),
        }
    }
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason)
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(reason) => reason.into(),
            Failure::Unavailable(why) => Self::unavailable(why),
        }
    }
}

//! Why a store did not do what was asked, and the gRPC status that says so.

use std::fmt;

use tonic::Status;

use crate::Reason;

/// Why a store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The store refuses the request because of what the store holds. A refusal is an expected
    /// outcome.
    Refused(Reason),
    /// The store cannot be reached, read or written. Whether anything has changed is not known.
    Unavailable(String),
}

impl Failure {
    /// Makes a refusal from the name of a reason, which a store's script gave. An unknown name
    /// makes a [`Self::Unavailable`].
    #[must_use]
    pub fn refused(name: &str) -> Self {
        match Reason::from_name(name) {
            Some(reason) => Self::Refused(reason),
            None => Self::Unavailable(format!("the store gave an unknown reason: {name}")),
        }
    }

    /// Makes a [`Self::Unavailable`] from the error that is its cause.
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

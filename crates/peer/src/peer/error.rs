//! Why an operation was not carried out.

use std::{io, net::SocketAddr, path::PathBuf};

use lonja_wire::{FieldError, Operation, Outcome};

use crate::{data_dir::DataError, index::IndexError};

/// An operation that was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// The index says no.
    #[error("{}", crate::index::reply_text(*operation, *status))]
    Refused {
        /// What was asked.
        operation: Operation,
        /// The status, other than 0.
        status: u8,
    },
    /// The index says nothing.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The JSON files cannot be read or written.
    #[error(transparent)]
    Data(#[from] DataError),
    /// It cannot serve there.
    #[error("cannot serve files at {0}: {1}")]
    Serve(SocketAddr, #[source] io::Error),
    /// There is no such directory.
    #[error("cannot share {}: {source}", path.display())]
    Share {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A name that no request can carry.
    #[error("the {0} is {1}")]
    Field(&'static str, #[source] FieldError),
    /// A user who is not in the list.
    #[error("{0} is not among the users that were listed last")]
    NotListed(String),
}

impl PeerError {
    /// The status that stands for it in what a person sees.
    #[must_use]
    pub(crate) fn status(&self, operation: Operation) -> u8 {
        match self {
            Self::Refused { operation: refused, status } if *refused == operation => *status,
            _ => operation.status(Outcome::Failed),
        }
    }

    /// Whether it may have been carried out all the same: nothing was heard of it, or only
    /// that something failed.
    #[must_use]
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Index(_)) || self.is(Outcome::Failed)
    }

    /// Whether the index refused for that reason.
    #[must_use]
    pub(crate) fn is(&self, outcome: Outcome) -> bool {
        matches!(self, Self::Refused { operation, status } if operation.status(outcome) == *status)
    }
}

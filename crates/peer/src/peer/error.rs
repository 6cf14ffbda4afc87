//! Why an operation was not carried out.

use std::{io, net::SocketAddr, path::PathBuf};

use lonja_wire::{FieldError, Operation, Outcome, Username};

use crate::{data_dir::DataError, index::IndexError};

/// Why a peer did not carry out an operation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// The index refused the operation.
    #[error("{}", crate::index::reply_text(*operation, *status))]
    Refused {
        /// The operation that was asked for.
        operation: Operation,
        /// The status of the reply, which is not 0.
        status: u8,
    },
    /// The index gave no answer.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A file in the directory where the peer keeps its data cannot be read or written.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The peer cannot serve files at this address.
    #[error("cannot serve files at {0}: {1}")]
    Serve(SocketAddr, #[source] io::Error),
    /// The directory to share cannot be opened.
    #[error("cannot share {}: {source}", path.display())]
    Share {
        /// The path of the directory.
        path: PathBuf,
        /// Why the directory cannot be opened.
        source: io::Error,
    },
    /// A text is not valid for the field that this error names.
    #[error("the {0} is {1}")]
    Field(&'static str, #[source] FieldError),
    /// The user is not in the last list of users.
    #[error("{0} is not in the last list of users; list the users again")]
    NotListed(String),
    /// The user's session is in another process, which would not serve what this one publishes.
    #[error(
        "{0}'s session is in another process (a share or a shell), which serves only what it publishes \
         itself: publish the file there"
    )]
    ServedElsewhere(Username),
}

impl PeerError {
    /// The status that a person sees for an operation that fails with this error.
    #[must_use]
    pub(crate) fn status(&self, operation: Operation) -> u8 {
        match self {
            Self::Refused { operation: refused, status } if *refused == operation => *status,
            _ => operation.status(Outcome::Failed),
        }
    }

    /// Whether the operation may have been carried out all the same, because the index gave no
    /// answer, or answered only "any other failure" (docs/protocol.md 3).
    #[must_use]
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Index(_)) || self.is(Outcome::Failed)
    }

    /// Whether the index refused the operation with this outcome. An outcome for which the operation has no
    /// status of its own is none that the index tells.
    #[must_use]
    pub(crate) fn is(&self, outcome: Outcome) -> bool {
        let Self::Refused { operation, status } = self else { return false };
        let is_told =
            outcome == Outcome::Failed || operation.status(outcome) != operation.status(Outcome::Failed);
        is_told && operation.status(outcome) == *status
    }
}

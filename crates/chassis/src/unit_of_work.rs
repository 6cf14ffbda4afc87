//! A change and its record in one commit.
//!
//! In one process, the stores of all services share a journal. So a record of the audit can be in the
//! commit of the change that it tells of, and a peer waits for the disk once. The gateway does not know
//! the journal for that, nor the registry the audit: the gateway has a [`Witness`] watch the call that
//! makes the change, the store of the called service tells the witness how the change was decided, and
//! the witness enters the record in a [`Ledger`], which is the audit's. Across a network no witness is told
//! anything, and the gateway has the record stored after the change.

use std::{fmt, future::Future, sync::Arc};

use lonja_journal::{Log, State};
use lonja_proto::{Failure, Reason, audit::OperationRecord};

tokio::task_local! {
    static WATCHING: Witness;
}

/// Learns how a change was decided, while the commit that holds the change is still open. Clones are
/// the same witness.
#[derive(Clone)]
pub struct Witness(Arc<dyn Fn(Result<(), Reason>) + Send + Sync>);

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness").finish_non_exhaustive()
    }
}

impl Witness {
    /// Makes a witness that calls `decided` for each change that is decided. `decided` is called on the
    /// thread that commits, and must not wait.
    pub fn new(decided: impl Fn(Result<(), Reason>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(decided))
    }

    /// Makes a call, and is told of each change that a store in this process decides for the call.
    pub async fn watch<F: Future>(self, call: F) -> F::Output {
        WATCHING.scope(self, call).await
    }

    /// The witness that watches the current call.
    #[must_use]
    pub fn current() -> Option<Self> {
        WATCHING.try_with(Self::clone).ok()
    }

    /// Whether somebody else has a clone of this witness: once the call is over, a store that has yet to decide a change.
    #[must_use]
    pub fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Tells the witness how a change was decided.
    pub fn tell<T>(&self, outcome: &Result<T, Reason>) {
        (self.0)(outcome.as_ref().map(drop).map_err(|reason| *reason));
    }
}

/// Has a log decide a command, and tells the witness of the current call, if there is one, the outcome.
///
/// # Errors
/// The reason for which the command was refused; or that the journal could not write, has too many
/// commands waiting, or is closed.
pub async fn submit<S, T>(log: &Log<S>, command: S::Command) -> Result<T, Failure>
where
    S: State<Outcome = Result<T, Reason>>,
    T: Send + 'static,
{
    let outcome = match Witness::current() {
        Some(witness) => log.submit_with(command, move |outcome| witness.tell(outcome)).await,
        None => log.submit(command).await,
    };
    Ok(outcome.map_err(Failure::unavailable)??)
}

/// Why a record is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    /// Too many records wait. The change that the record tells of is not affected.
    #[error("too many records wait")]
    Refused,
    /// The commit could not be written, or the journal is closed, so the change has failed too.
    #[error("the commit failed")]
    Failed,
}

/// What learns whether a record is durable.
pub type Stored = Box<dyn FnOnce(Result<(), NotStored>) + Send>;

/// Takes records into the commit that is being decided or, if none is, into the next.
pub trait Ledger: fmt::Debug + Send + Sync {
    /// Enters a record without waiting. `stored` is called once and must not wait: at once if the record
    /// is refused, otherwise before those are answered whose changes are in the same commit.
    fn enter(&self, record: OperationRecord, stored: Stored);
}

//! What submitters and the writer tell each other.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::error::JournalError;

/// What submitters and the writer tell each other: commands wait, the journal closes, or its files
/// cannot be written.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
    closed: AtomicBool,
    unwritable: AtomicBool,
}

impl Signal {
    /// Wakes the writer, because a command waits or the journal closes.
    pub(crate) fn raise(&self) {
        let was = std::mem::replace(&mut *self.raised.lock(), true);
        if !was {
            self.changed.notify_one();
        }
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.raise();
    }

    /// Says that the journal closes, without waking anybody.
    pub(crate) fn mark_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Says whether the last attempt to write succeeded.
    pub(crate) fn set_writable(&self, writable: bool) {
        self.unwritable.store(!writable, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Checks that the last attempt to write succeeded. After a failure, the writer is woken to make another attempt: a
    /// service that is not ready may be sent no command.
    pub(crate) fn check_writable(&self) -> Result<(), JournalError> {
        if self.is_closed() {
            return Err(JournalError::Closed);
        }
        if self.is_unwritable() {
            self.raise();
            return Err(JournalError::Write("the last attempt failed".to_owned()));
        }
        Ok(())
    }

    /// Whether the last attempt to write failed.
    pub(crate) fn is_unwritable(&self) -> bool {
        self.unwritable.load(Ordering::Acquire)
    }

    /// Waits until the signal is raised.
    pub(crate) fn wait(&self) {
        let mut raised = self.raised.lock();
        while !*raised {
            self.changed.wait(&mut raised);
        }
        *raised = false;
    }
}

//! Calls that a service holds while its store is being restarted.
//!
//! A service that says nothing for two seconds is given up. But a store that is being restarted is
//! back in a moment, and only the service knows whether that is why it says nothing. So while a batch
//! waits for the store, the service says so again and again, and its callers wait for longer.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    pin,
    time::{self, Instant},
};

/// How often a service says that a batch is held.
pub(crate) const SIGN: Duration = Duration::from_millis(250);
/// How long after a sign a call counts as held. A service that has ended sends no further sign.
const COUNTS: Duration = Duration::from_secs(1);
/// How long a call may take in all when the service says that the call is held.
pub const HELD_AT_MOST: Duration = Duration::from_secs(10);

/// The moment at which a service last said that it holds a call. Clones share the moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    last: Arc<Mutex<Option<Instant>>>,
}

impl Held {
    pub(crate) fn note(&self) {
        *self.last.lock() = Some(Instant::now());
    }

    pub(crate) fn is_held(&self) -> bool {
        self.last.lock().is_some_and(|last| last.elapsed() < COUNTS)
    }
}

/// Waits for `work` until `usual` after `since`, or longer while `is_held`, but no longer than
/// [`HELD_AT_MOST`] after `since`. `None` if the work was not done by then.
pub async fn in_time<T>(
    since: Instant,
    usual: Duration,
    is_held: impl Fn() -> bool,
    work: impl Future<Output = T>,
) -> Option<T> {
    pin!(work);
    let mut deadline = since + usual;
    loop {
        if let Ok(done) = time::timeout_at(deadline, &mut work).await {
            return Some(done);
        }
        if !is_held() || since.elapsed() >= HELD_AT_MOST {
            return None;
        }
        deadline += SIGN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Duration = Duration::from_secs(2);

    async fn took(held: impl Fn() -> bool) -> Duration {
        let since = Instant::now();
        let done = in_time(since, USUAL, held, std::future::pending::<()>()).await;
        assert!(done.is_none());
        since.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_waited_for_while_it_is_held() {
        assert!(took(|| false).await < USUAL + SIGN);
        assert!((HELD_AT_MOST..HELD_AT_MOST + 2 * SIGN).contains(&took(|| true).await));
        let held = Held::default();
        assert!(!held.is_held());
        held.note();
        assert!(held.is_held());
        // The last sign counts no more when the usual time is over.
        assert!(took(|| held.is_held()).await < USUAL + SIGN);
    }
}

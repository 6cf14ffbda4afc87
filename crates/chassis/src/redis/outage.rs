//! The time in which Redis is away because it is being restarted.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long calls wait for a Redis that went away. A planned restart takes a second or two, and more
/// with a large append-only file. A Redis that is away for longer is not being restarted, and calls
/// fail by their usual deadline. Shorter than the time for which a script remembers a batch (10 s).
const HOLD: Duration = Duration::from_secs(8);

/// Whether Redis is away, and since when.
#[derive(Debug, Default)]
pub(super) struct Outage {
    since: Mutex<Option<Instant>>,
    /// Whether `since` is set, for the many calls that only ask whether it is.
    set: AtomicBool,
}

impl Outage {
    /// Notes that Redis ended a connection, refused one, or reads its files.
    pub(super) fn begins(&self) {
        let mut since = self.since.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            self.set.store(true, Ordering::Release);
            metrics::counter!("lonja_redis_outages_total").increment(1);
        }
    }

    /// Notes that Redis answers.
    pub(super) fn ends(&self) {
        if self.set.load(Ordering::Acquire) {
            *self.since.lock() = None;
            self.set.store(false, Ordering::Release);
        }
    }

    /// Whether Redis went away less than `HOLD` ago.
    pub(super) fn is_on(&self) -> bool {
        self.set.load(Ordering::Acquire) && self.since.lock().is_some_and(|since| since.elapsed() < HOLD)
    }

    /// The deadline of a call that waits since `since`: `usual` after that, or the end of the hold if
    /// Redis is away. No call is held for longer than `HOLD`, even if Redis goes away again and again.
    pub(super) fn deadline(&self, since: Instant, usual: Duration) -> Instant {
        let usual = since + usual;
        if !self.set.load(Ordering::Acquire) {
            return usual;
        }
        self.since.lock().map_or(usual, |away| usual.max(away.min(since) + HOLD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn calls_wait_from_the_beginning_of_an_outage_and_not_for_ever() {
        let outage = Outage::default();
        let began = Instant::now();
        assert_eq!((outage.deadline(began, USUAL), outage.is_on()), (began + USUAL, false));
        outage.begins();
        tokio::time::advance(Duration::from_secs(3)).await;
        outage.begins();
        assert_eq!((outage.deadline(Instant::now(), USUAL), outage.is_on()), (began + HOLD, true));
        tokio::time::advance(HOLD).await;
        let later = Instant::now();
        assert_eq!((outage.deadline(later, USUAL), outage.is_on()), (later + USUAL, false));
        outage.ends();
        assert_eq!(outage.deadline(later, USUAL), later + USUAL);
        // A call that has waited since before the second outage waits no longer for that.
        outage.begins();
        assert_eq!(outage.deadline(later, USUAL), later + HOLD);
        assert_eq!(outage.deadline(began, USUAL), began + HOLD);
    }
}

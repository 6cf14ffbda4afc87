//! The time in which Redis is away because it is being restarted.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a command may take in all, attempts and pauses included, unless Redis is being restarted
/// ([`Outage`]). For one request of a peer, all services together have 2 s.
pub(crate) const DEADLINE: Duration = Duration::from_millis(1500);
/// How long calls wait for a Redis that went away. A planned restart takes a second or two, and more
/// with a large append-only file. A Redis that is away for longer is not being restarted, and calls
/// fail by their usual deadline. `HOLD` is shorter than the 10 s for which a script remembers a batch
/// (`HARNESS` in `batch.rs`).
const HOLD: Duration = Duration::from_secs(8);

/// Whether Redis is away, and since when.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    last: Mutex<Option<Last>>,
    /// Whether Redis is away, or was away until lately. Most calls read only this flag and take no
    /// lock.
    matters: AtomicBool,
}

/// The last time that Redis was away.
#[derive(Debug, Clone, Copy)]
struct Last {
    began: Instant,
    ended: Option<Instant>,
}

impl Outage {
    /// Notes that Redis ended a connection, refused one, or reads its files. If Redis came back only
    /// just now, the outage goes on: a part of Redis is away, which is no restart.
    pub(crate) fn begins(&self) {
        let mut last = self.last.lock();
        match &mut *last {
            Some(Last { ended: None, .. }) => return,
            Some(Last { ended, .. }) if ended.is_some_and(|ended| ended.elapsed() < DEADLINE) => {
                *ended = None
            }
            _ => {
                *last = Some(Last { began: Instant::now(), ended: None });
                metrics::counter!("lonja_redis_outages_total").increment(1);
            }
        }
        self.matters.store(true, Ordering::Release);
    }

    /// Notes that Redis answers.
    pub(crate) fn ends(&self) {
        if !self.matters.load(Ordering::Acquire) {
            return;
        }
        let mut last = self.last.lock();
        match &mut *last {
            Some(Last { ended: Some(ended), .. }) if ended.elapsed() > HOLD => {
                self.matters.store(false, Ordering::Release);
            }
            Some(Last { ended: ended @ None, .. }) => *ended = Some(Instant::now()),
            _ => {}
        }
    }

    /// Whether calls may be held: Redis went away less than [`HOLD`] ago, or came back so lately that
    /// calls may still be on their way to it.
    pub(crate) fn is_on(&self) -> bool {
        self.matters.load(Ordering::Acquire)
            && self.last.lock().is_some_and(|last| match last.ended {
                None => last.began.elapsed() < HOLD,
                Some(ended) => ended.elapsed() < DEADLINE && last.began.elapsed() < HOLD + DEADLINE,
            })
    }

    /// The deadline of a call that has waited since `since`. Usually the deadline is [`DEADLINE`]
    /// later. While Redis is away, it is the end of the hold. A call that was held has [`DEADLINE`]
    /// from the return of Redis, since the first answer of Redis may be another call's. No call waits
    /// for longer than [`HOLD`].
    pub(crate) fn deadline(&self, since: Instant) -> Instant {
        let usual = since + DEADLINE;
        if !self.matters.load(Ordering::Acquire) {
            return usual;
        }
        let held = self.last.lock().and_then(|last| match last.ended {
            None => Some(last.began.min(since) + HOLD),
            Some(ended) if since < ended => {
                Some((ended + DEADLINE).min(since + HOLD).min(last.began + HOLD + DEADLINE))
            }
            Some(_) => None,
        });
        held.map_or(usual, |held| usual.max(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn calls_wait_from_the_beginning_of_an_outage_and_not_for_ever() {
        let outage = Outage::default();
        let began = Instant::now();
        assert_eq!((outage.deadline(began), outage.is_on()), (began + DEADLINE, false));
        outage.begins();
        tokio::time::advance(3 * SECOND).await;
        outage.begins();
        assert_eq!((outage.deadline(Instant::now()), outage.is_on()), (began + HOLD, true));
        tokio::time::advance(HOLD).await;
        let later = Instant::now();
        assert_eq!((outage.deadline(later), outage.is_on()), (later + DEADLINE, false));
    }

    /// Bug: when another call was the first that Redis answered, a call that was held had no time
    /// left, and failed.
    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_held_has_time_when_redis_is_back() {
        let outage = Outage::default();
        let since = Instant::now();
        outage.begins();
        tokio::time::advance(3 * SECOND).await;
        outage.ends();
        let back = Instant::now();
        assert_eq!((outage.deadline(since), outage.is_on()), (back + DEADLINE, true));
        // A call that comes after that has the usual time.
        tokio::time::advance(SECOND).await;
        let after = Instant::now();
        assert_eq!(outage.deadline(after), after + DEADLINE);
        // Another outage holds no call for longer than the hold.
        tokio::time::advance(SECOND).await;
        outage.begins();
        assert_eq!(outage.deadline(after), after + HOLD);
        assert_eq!(outage.deadline(since), since + HOLD);
        outage.ends();
        tokio::time::advance(HOLD + SECOND).await;
        outage.ends();
        assert!(!outage.is_on() && !outage.matters.load(Ordering::Acquire));
    }

    /// Where some calls succeed and others fail, as at a cluster that has lost a node, nothing is held
    /// for longer than at a restart.
    #[tokio::test(start_paused = true)]
    async fn an_outage_that_comes_and_goes_is_one() {
        let outage = Outage::default();
        let began = Instant::now();
        while began.elapsed() < 2 * HOLD {
            outage.begins();
            tokio::time::advance(SECOND / 10).await;
            outage.ends();
            tokio::time::advance(SECOND / 10).await;
        }
        assert!(!outage.is_on());
        let now = Instant::now();
        outage.begins();
        assert_eq!(outage.deadline(now), now + DEADLINE);
    }
}

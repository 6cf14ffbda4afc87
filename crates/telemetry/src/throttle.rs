//! A bound on how often messages are logged that peers can cause at will.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Admits a number of messages in each window of time, and counts those that it suppresses.
#[derive(Debug)]
pub struct Throttle {
    burst: u32,
    window: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    began: Option<Instant>,
    admitted: u32,
    suppressed: u64,
}

impl Throttle {
    /// Makes a throttle for events that are each worth knowing: it admits a hundred a second.
    #[must_use]
    pub const fn events() -> Self {
        Self::new(100, Duration::from_secs(1))
    }

    /// Makes a throttle for messages that recur while a condition lasts: it admits one a minute.
    #[must_use]
    pub const fn condition() -> Self {
        Self::new(1, Duration::from_secs(60))
    }

    const fn new(burst: u32, window: Duration) -> Self {
        Self { burst, window, state: Mutex::new(State { began: None, admitted: 0, suppressed: 0 }) }
    }

    /// Asks whether a message may be logged now. If so, gives the number of messages that were
    /// suppressed since the last one that was admitted; otherwise `None`.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state.began.is_none_or(|began| now.duration_since(began) >= self.window) {
            state.began = Some(now);
            state.admitted = 0;
        }
        if state.admitted == self.burst {
            state.suppressed += 1;
            return None;
        }
        state.admitted += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_a_second_and_the_rest_is_counted() {
        let throttle = Throttle::events();
        let start = Instant::now();
        let admitted = (0..1000).filter(|_| throttle.admit_at(start).is_some()).count();
        assert_eq!(admitted, 100);
        assert_eq!(throttle.admit_at(start + throttle.window), Some(900));
        assert_eq!(throttle.admit_at(start + throttle.window), Some(0));
    }

    #[test]
    fn a_condition_is_said_once_a_minute() {
        let (throttle, start) = (Throttle::condition(), Instant::now());
        let after = |seconds| throttle.admit_at(start + Duration::from_secs(seconds));
        assert_eq!([0, 1, 59, 60, 61].map(after), [Some(0), None, None, Some(2), None]);
    }
}

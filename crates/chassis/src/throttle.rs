//! A bound on how often something is said that peers can cause at will.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lets so many through in each window of time and counts the rest.
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
    /// For events that are each worth knowing: a hundred a second.
    #[must_use]
    pub const fn events() -> Self {
        Self::new(100, Duration::from_secs(1))
    }

    /// For what recurs for as long as a condition lasts: one a minute.
    #[must_use]
    pub const fn condition() -> Self {
        Self::new(1, Duration::from_secs(60))
    }

    const fn new(burst: u32, window: Duration) -> Self {
        Self { burst, window, state: Mutex::new(State { began: None, admitted: 0, suppressed: 0 }) }
    }

    /// Whether this one may be said; if so, how many have been suppressed since the last.
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

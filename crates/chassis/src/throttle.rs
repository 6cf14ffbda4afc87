//! A bound on how often something is said that peers can cause at will.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How many in a window are let through.
const BURST: u32 = 100;
/// The window.
const WINDOW: Duration = Duration::from_secs(1);

/// Lets a hundred a second through and counts the rest.
#[derive(Debug)]
pub struct Throttle {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    began: Option<Instant>,
    admitted: u32,
    suppressed: u64,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

impl Throttle {
    /// Nothing let through yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: Mutex::new(State { began: None, admitted: 0, suppressed: 0 }) }
    }

    /// Whether this one may be said; if so, how many have been suppressed since the last.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state.began.is_none_or(|began| now.duration_since(began) >= WINDOW) {
            state.began = Some(now);
            state.admitted = 0;
        }
        if state.admitted == BURST {
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
        let throttle = Throttle::new();
        let start = Instant::now();
        let admitted = (0..1000).filter(|_| throttle.admit_at(start).is_some()).count();
        assert_eq!(admitted, 100);
        assert_eq!(throttle.admit_at(start + WINDOW), Some(900));
        assert_eq!(throttle.admit_at(start + WINDOW), Some(0));
    }
}

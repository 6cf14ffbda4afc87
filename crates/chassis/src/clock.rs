//! The time of day.

use std::time::{SystemTime, UNIX_EPOCH};

/// The time of day, of the machine's clock or of the simulated world that this thread plays.
#[must_use]
pub fn now() -> SystemTime {
    #[cfg(feature = "simulation")]
    if let Some(clock) = simulation::clock() {
        return clock();
    }
    SystemTime::now()
}

/// Milliseconds since the Unix epoch, or 0 if the clock is before the epoch.
#[must_use]
pub fn unix_ms() -> i64 {
    let since = now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A clock for simulated worlds, each of which is played by one thread.
#[cfg(feature = "simulation")]
pub mod simulation {
    use std::{cell::Cell, time::SystemTime};

    thread_local! {
        static CLOCK: Cell<Option<fn() -> SystemTime>> = const { Cell::new(None) };
    }

    pub(super) fn clock() -> Option<fn() -> SystemTime> {
        CLOCK.get()
    }

    /// Takes the time of day from `clock` wherever this thread asks for it.
    pub fn set_clock(clock: fn() -> SystemTime) {
        CLOCK.set(Some(clock));
    }
}

//! Whether the peer of a session is still there: when it was looked, and what came of it.
//!
//! The registry only says whose turn it is, and remembers. Whoever dials is the gateway.

use lonja_proto::registry::CheckResult;

use crate::model::Session;

/// A session whose peer refuses is checked again after this part of the interval: nobody is there to be
/// disturbed.
const HURRY: u64 = 4;

/// What is known of the peer of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Check {
    /// When the last check began, in milliseconds of the Unix epoch; 0 if there was none.
    pub at_ms: i64,
    /// When the peer was last reached, in milliseconds of the Unix epoch; 0 if never.
    pub reached_at_ms: i64,
    /// How many checks in a row were refused since the peer was reached; 0 if the peer was never reached.
    pub refusals: u32,
}

impl Check {
    /// Whether the session is to be checked. Sessions that were opened at one moment come at different
    /// ones: the first check within the first half of the interval, the next ones up to a quarter late.
    #[must_use]
    pub fn is_due(self, session: &Session, now_ms: i64, interval_ms: u64) -> bool {
        // The last bytes of an id are random.
        let [.., high, low] = session.id.to_bytes();
        let share = |of: u64| of.saturating_mul(u16::from_be_bytes([high, low]).into()) >> 16;
        let (since, wait) = match self {
            Self { at_ms: 0, .. } => (session.opened_at_ms, share(interval_ms / 2)),
            Self { refusals: 1.., .. } => (self.at_ms, interval_ms / HURRY),
            _ => (self.at_ms, interval_ms.saturating_add(share(interval_ms / 4))),
        };
        // A time in the future is of a clock that is ahead, or was set back.
        (now_ms - since).unsigned_abs() >= wait
    }

    /// What is known after a check.
    #[must_use]
    pub fn after(self, result: CheckResult, now_ms: i64) -> Self {
        let refusals = match result {
            CheckResult::Refused if self.reached_at_ms != 0 => self.refusals + 1,
            _ => 0,
        };
        let reached_at_ms = if result == CheckResult::Reached { now_ms } else { self.reached_at_ms };
        Self { reached_at_ms, refusals, ..self }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lonja_proto::SessionId;

    use super::*;
    use crate::model::Endpoint;

    fn session(random: u8) -> Session {
        let mut id = [0; 16];
        id[14] = random;
        Session {
            id: SessionId::from_bytes(id),
            username: "alice".into(),
            endpoint: Endpoint { address: Ipv4Addr::LOCALHOST, port: 5000 },
            opened_at_ms: 1_000_000,
        }
    }

    #[test]
    fn checks_are_spread_and_never_closer_than_the_interval() {
        for (random, first, later) in [(0, 0, 1000), (128, 250, 1125), (255, 498, 1249)] {
            let (session, check) = (session(random), Check { at_ms: 2_000_000, ..Check::default() });
            let due = |check: Check, since: i64, wait: i64| {
                assert!(check.is_due(&session, since + wait, 1000), "{random}");
                assert!(!check.is_due(&session, since + wait - 1, 1000) || wait == 0, "{random}");
            };
            due(Check::default(), 1_000_000, first);
            due(check, 2_000_000, later);
            due(Check { refusals: 1, ..check }, 2_000_000, 250);
            assert!(!check.is_due(&session, 3_000_000, u64::MAX), "an interval without end");
            assert!(check.is_due(&session, 1_500_000, 1000), "the clock was set back");
            assert!(!check.is_due(&session, 1_999_500, 1000), "another registry's clock is ahead");
        }
    }

    #[test]
    fn only_who_was_reached_can_be_gone() {
        use CheckResult::{Reached, Refused, Silent};
        let after = |results: &[CheckResult]| {
            results.iter().fold(Check::default(), |check, result| check.after(*result, 7))
        };
        assert_eq!(after(&[Refused, Refused, Refused]).refusals, 0);
        assert_eq!(after(&[Reached, Refused, Refused]).refusals, 2);
        assert_eq!(after(&[Reached, Refused, Silent, Refused]).refusals, 1);
        assert_eq!(after(&[Reached, Refused, Reached]).refusals, 0);
        assert_eq!((after(&[Reached, Silent]).reached_at_ms, after(&[Silent]).reached_at_ms), (7, 0));
    }
}

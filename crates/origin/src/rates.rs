//! How much one address may ask for in a minute.

use std::{
    fmt,
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use lonja_chassis::networks;
use lonja_telemetry::throttle::Throttle;
use lonja_wire::Operation;
use metrics::{Counter, counter};

/// The number of requests after which addresses whose rate is whole again are forgotten.
const FORGET: u32 = 10_000;

/// Bounds the log of requests beyond a rate.
static BEYOND: Throttle = Throttle::events();

/// A bound on the requests of each address: a number of requests at once, which each minute gives back.
struct Rate {
    /// The option that sets the bound.
    option: &'static str,
    limiter: DefaultKeyedRateLimiter<IpAddr>,
    asked: AtomicU32,
    refused: Counter,
}

impl Rate {
    fn admit(&self, address: IpAddr) -> bool {
        if self.asked.fetch_add(1, Ordering::Relaxed) % FORGET == FORGET - 1 {
            self.limiter.retain_recent();
        }
        let is_admitted = self.limiter.check_key(&address).is_ok();
        if !is_admitted {
            self.refused.increment(1);
        }
        is_admitted
    }
}

/// The bounds on registrations and on requests of any kind.
pub struct Rates {
    registrations: Option<Rate>,
    requests: Option<Rate>,
}

impl fmt::Debug for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rates").finish_non_exhaustive()
    }
}

impl Rates {
    /// Makes the bounds: the number of registrations and of requests in a minute. 0 is no bound.
    #[must_use]
    pub fn new(registrations: u32, requests: u32) -> Self {
        let rate = |minutely, kind: &'static str, option| {
            let limiter = RateLimiter::keyed(Quota::per_minute(NonZeroU32::new(minutely)?));
            let refused = counter!("lonja_gateway_requests_beyond_rate_total", "rate" => kind);
            Some(Rate { option, limiter, asked: AtomicU32::new(0), refused })
        };
        Self {
            registrations: rate(registrations, "registrations", "--max-registrations-per-address"),
            requests: rate(requests, "requests", "--max-requests-per-address"),
        }
    }

    /// Whether a peer at `address` may ask for this operation now. A refusal is counted and logged.
    #[must_use]
    pub fn admit(&self, address: IpAddr, operation: Operation) -> bool {
        let of_all = self.requests.as_ref();
        let of_kind = self.registrations.as_ref().filter(|_| operation == Operation::Register);
        let address = networks::host(address);
        let exceeded = of_all.into_iter().chain(of_kind).find(|rate| !rate.admit(address));
        if let Some(Rate { option, .. }) = exceeded
            && let Some(suppressed) = BEYOND.admit()
        {
            tracing::warn!(
                %address,
                operation = operation.name(),
                suppressed,
                "an address asks for too much: if it is no flood, raise {option}"
            );
        }
        exceeded.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_minute() {
        let rates = Rates::new(3, 5);
        let (one, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let ask = |address, operation, times| (0..times).filter(|_| rates.admit(address, operation)).count();
        assert_eq!(ask(one, Operation::Register, 4), 3);
        assert_eq!(ask(other, Operation::Register, 4), 3);
        // The registration that was refused counts as a request.
        assert_eq!(ask(one, Operation::ListUsers, 9), 1);
        assert_eq!(ask("::ffff:10.0.0.1".parse().unwrap(), Operation::ListUsers, 1), 0);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let rates = Rates::new(0, 1);
        assert!(rates.admit("2001:db8::1".parse().unwrap(), Operation::ListUsers));
        assert!(!rates.admit("2001:db8::2".parse().unwrap(), Operation::ListUsers));
        assert!(rates.admit("2001:db8:0:1::1".parse().unwrap(), Operation::ListUsers));
    }

    #[test]
    fn without_a_rate_nobody_is_refused() {
        let rates = Rates::new(0, 0);
        assert!((0..1000).all(|_| rates.admit([10, 0, 0, 1].into(), Operation::Register)));
    }
}

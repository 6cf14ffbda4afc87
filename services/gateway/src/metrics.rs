//! The metrics of the gateway.

use std::time::Duration;

use lonja_wire::{BadRequest, Dialect, Operation};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// The number of statuses that an answer can have: 0 to 4.
const STATUSES: usize = 5;

/// The metrics, each looked up once, since looking up a counter costs more than counting.
pub(crate) struct Metrics {
    requests: Vec<Counter>,
    durations: Vec<Histogram>,
    bad: Vec<Counter>,
    pub(crate) bad_proxy_headers: Counter,
    pub(crate) open: Gauge,
    pub(crate) refused: Counter,
    pub(crate) not_allowed: Counter,
    pub(crate) timed_out: Counter,
    pub(crate) not_taken: Counter,
    pub(crate) lists_cut: Counter,
    pub(crate) held: Counter,
    pub(crate) statuses_as_strings: Counter,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut requests = Vec::new();
        for operation in Operation::ALL {
            for dialect in Dialect::ALL {
                for status in 0..STATUSES {
                    requests.push(counter!("lonja_gateway_requests_total",
                        "operation" => operation.name(), "dialect" => dialect.name(), "status" => status.to_string()));
                }
            }
        }
        let duration = |operation: Operation| histogram!("lonja_gateway_request_duration_seconds", "operation" => operation.name());
        let bad = |reason| counter!("lonja_gateway_bad_requests_total", "reason" => reason);
        Self {
            requests,
            durations: Operation::ALL.into_iter().map(duration).collect(),
            bad: BadRequest::REASONS.into_iter().map(&bad).collect(),
            bad_proxy_headers: bad("proxy_header"),
            open: gauge!("lonja_gateway_connections_open"),
            refused: counter!("lonja_gateway_connections_refused_total"),
            not_allowed: counter!("lonja_gateway_connections_not_allowed_total"),
            timed_out: counter!("lonja_gateway_connections_timed_out_total"),
            not_taken: counter!("lonja_gateway_replies_not_taken_total"),
            lists_cut: counter!("lonja_gateway_lists_cut_total"),
            held: counter!("lonja_gateway_requests_held_total"),
            statuses_as_strings: counter!("lonja_gateway_statuses_as_strings_total"),
        }
    }

    /// Counts a request that was answered, and how long that took.
    pub(crate) fn answered(&self, operation: Operation, dialect: Dialect, status: u8, took: Duration) {
        let index =
            (operation as usize * Dialect::ALL.len() + dialect as usize) * STATUSES + usize::from(status);
        self.requests[index].increment(1);
        self.durations[operation as usize].record(took);
    }

    /// Counts a bad request by the reason why it is bad.
    pub(crate) fn bad(&self, bad: &BadRequest) {
        if let Some(index) = BadRequest::REASONS.iter().position(|reason| *reason == bad.reason()) {
            self.bad[index].increment(1);
        }
    }
}

//! What an operator sees of a process: logs, metrics and traces, and the bound on how often a log line
//! comes again.

mod logs;
pub mod metrics;
pub mod throttle;
pub mod traces;

use std::error::Error;

use tracing_appender::non_blocking::WorkerGuard;

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter cannot be parsed.
    #[error(
        "the log filter {0:?} is not valid: use a level (error, warn, info, debug, trace) or target=level pairs"
    )]
    Filter(String),
    /// Logs or metrics were set up before.
    #[error("telemetry was already set up: {0}")]
    Twice(#[source] Box<dyn Error + Send + Sync>),
}

/// Sets up logging with this filter (`info`, `lonja_gateway=debug` ...) and metrics, once for the
/// process. The returned guard writes out the last log lines when the guard is dropped.
///
/// # Errors
/// When the filter is not valid, or when called twice.
pub fn init(filter: &str) -> Result<WorkerGuard, TelemetryError> {
    let guard = logs::init(filter)?;
    metrics::init()?;
    Ok(guard)
}

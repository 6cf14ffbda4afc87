//! Logs on standard error, metrics for Prometheus.

use std::{fmt, io, sync::OnceLock};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::{Event, Subscriber, level_filters::LevelFilter};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    filter::Targets,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Writer},
    },
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::trace;

/// The upper bounds of the histogram buckets of every duration, in seconds.
const DURATION_BUCKETS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// The largest number of log lines that wait for the reader of standard error. A slow reader holds
/// nothing up: lines beyond this number are dropped.
const LOG_LINES: usize = 8192;

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter cannot be parsed.
    #[error("the log filter {0:?} is not valid: use a level (info) or target=level pairs")]
    Filter(String),
    /// Logs or metrics were set up before.
    #[error("telemetry was already set up: {0}")]
    Twice(String),
}

/// Sets up logging with this filter (`info`, `lonja_gateway=debug` ...) and metrics, once for the
/// process. The returned guard writes out the last log lines when the guard is dropped.
///
/// # Errors
/// When the filter is not valid, or when called twice.
pub fn init(filter: &str) -> Result<WorkerGuard, TelemetryError> {
    let filter: Targets = filter.parse().map_err(|_| TelemetryError::Filter(filter.to_owned()))?;
    let (stderr, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(LOG_LINES).lossy(true).finish(io::stderr());
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .event_format(WithTrace(Format::default()))
        .finish()
        .with(filter)
        .try_init()
        .map_err(|error| TelemetryError::Twice(error.to_string()))?;
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &DURATION_BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| TelemetryError::Twice(error.to_string()))?;
    METRICS.set(handle).map_err(|_| TelemetryError::Twice("metrics".to_owned()))?;
    Ok(guard)
}

/// A format that puts the ids of a log line's trace and span, if there are any, before the line.
struct WithTrace<F>(F);

impl<S, N, F> FormatEvent<S, N> for WithTrace<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if let Some((trace, span)) = trace::current_ids() {
            write!(writer, "trace_id={trace} span_id={span} ")?;
        }
        self.0.format_event(context, writer, event)
    }
}

/// The current metrics in Prometheus' text format; empty before [`init`].
#[must_use]
pub fn render_metrics() -> String {
    METRICS.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// Folds the values that histograms have collected into their buckets, so that memory stays bounded
/// while nobody scrapes. Call this every few seconds.
pub fn upkeep() {
    if let Some(handle) = METRICS.get() {
        handle.run_upkeep();
    }
}

//! Logs on standard error.

use std::{fmt, io};

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

use crate::{TelemetryError, traces};

/// The largest number of log lines that wait for the reader of standard error. A slow reader holds
/// nothing up: lines beyond this number are dropped.
const LOG_LINES: usize = 8192;

/// Sets up logging with this filter (`info`, `lonja_gateway=debug` ...), once for the process. The
/// returned guard writes out the last log lines when the guard is dropped.
pub(crate) fn init(filter: &str) -> Result<WorkerGuard, TelemetryError> {
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
        .map_err(|error| TelemetryError::Twice(error.into()))?;
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
        if let Some((trace, span)) = traces::current_ids() {
            write!(writer, "trace_id={trace} span_id={span} ")?;
        }
        self.0.format_event(context, writer, event)
    }
}

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
    let filter = parsed(filter).ok_or_else(|| TelemetryError::Filter(filter.to_owned()))?;
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

/// A filter, if each part is a level or a `target=level`. A single word that is no level would be taken for a
/// target, and everything else would not be logged.
fn parsed(filter: &str) -> Option<Targets> {
    let is_clear = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
    if filter.split(',').all(|part| is_clear(part.trim())) { filter.parse().ok() } else { None }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Bug: `--log warning` was taken for a target of that name, so nothing was logged at all.
    #[test]
    fn a_word_that_is_no_level_is_no_filter() {
        for filter in ["info", "WARN", "off", "lonja_gateway=debug", "info,lonja_gateway=debug", ""] {
            assert!(parsed(filter).is_some(), "{filter}");
        }
        for filter in ["warning", "nfo", "lonja_gateway", "info,verbose", "lonja_gateway=loud"] {
            assert!(parsed(filter).is_none(), "{filter}");
        }
    }
}

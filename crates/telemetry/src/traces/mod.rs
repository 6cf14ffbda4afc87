//! Traces: one for each peer request, from accept to Redis and the audit.
//!
//! The gateway begins a trace and decides whether the trace is sampled. Everything else adds to the
//! trace of its caller or to none: a call that belongs to no sampled trace (a health check, the
//! sweeper) costs a look at an empty context. The names of attributes are in [`names`].

pub mod names;
mod propagation;

use std::{
    borrow::Cow,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context, KeyValue,
    trace::{
        Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _,
        TracerProvider as _,
    },
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, ResourceDetector as _},
    trace::{SdkTracer, SdkTracerProvider},
};
use ulid::Ulid;

pub use propagation::{HEADER, extract};

/// The number of attributes for which the span of a peer's request reserves memory.
const ROOT_ATTRIBUTES: usize = 8;
/// How long [`Exporter::finish`] may take to send the last spans.
const FAREWELL: Duration = Duration::from_secs(3);

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Why traces could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("traces: {0}")]
pub struct TraceError(#[from] ExporterBuildError);

/// Sends the spans of this process to the endpoint that is set.
#[derive(Debug)]
pub struct Exporter {
    provider: SdkTracerProvider,
}

impl Exporter {
    /// Sends the spans that have not been sent yet. Blocks for 3 s at most.
    pub fn finish(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FAREWELL) {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

/// Sets up traces as the `OTEL_*` variables say, once for the process and within its runtime.
/// `None` when no endpoint is set, or when traces are disabled. `service` is the name of the
/// service in its traces, unless `OTEL_SERVICE_NAME` says another.
///
/// # Errors
/// When the values of the variables cannot be used.
pub fn init(service: &'static str) -> Result<Option<Exporter>, TraceError> {
    let set = |name| std::env::var(name).is_ok_and(|value: String| !value.is_empty());
    let endpoint = set("OTEL_EXPORTER_OTLP_ENDPOINT") || set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    let is = |name, wanted| std::env::var(name).is_ok_and(|value: String| value == wanted);
    if !endpoint || is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return Ok(None);
    }
    let exporter = SpanExporter::builder().with_tonic().build()?;
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource(service)).build();
    install(&provider);
    Ok(Some(Exporter { provider }))
}

/// Has the spans of this process recorded by `provider`. Only the first call counts.
pub fn install(provider: &SdkTracerProvider) {
    let _ = TRACER.set(provider.tracer("lonja"));
}

/// Whether any request may be traced.
#[must_use]
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

fn resource(service: &'static str) -> Resource {
    let ours = [
        KeyValue::new("service.name", service),
        KeyValue::new("service.namespace", "lonja"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", Ulid::generate().to_string()),
    ];
    let said = EnvResourceDetector::new().detect();
    let name = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty());
    let said = said.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let said = said.chain(name.map(|name| KeyValue::new("service.name", name)));
    Resource::builder().with_attributes(ours).with_attributes(said.collect::<Vec<_>>()).build()
}

/// A span of a sampled trace. The span ends when this value is dropped.
#[derive(Debug)]
pub struct Span {
    context: Context,
}

impl Drop for Span {
    fn drop(&mut self) {
        self.context.span().end();
    }
}

impl Span {
    /// Begins a trace with a span that began at `began`. `None` when traces are off or this trace
    /// is not sampled.
    #[must_use]
    pub fn root(name: &'static str, began: SystemTime) -> Option<Self> {
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Server)
            .with_start_time(began)
            .with_attributes(Vec::with_capacity(ROOT_ATTRIBUTES));
        Self::start(builder, &Context::new())
    }

    /// Begins a span below `parent`. `None` when traces are off or the span is not sampled.
    #[must_use]
    pub fn child(builder: SpanBuilder, parent: &Parent) -> Option<Self> {
        Self::start(builder, &parent.0)
    }

    fn start(builder: SpanBuilder, parent: &Context) -> Option<Self> {
        let span = TRACER.get()?.build_with_context(builder, parent);
        let context = parent.with_span(span);
        let sampled = context.span().span_context().is_sampled();
        sampled.then_some(Self { context })
    }

    /// The context in which the parts of this span run.
    #[must_use]
    pub fn context(&self) -> Context {
        self.context.clone()
    }

    /// The place of this span, written as a `traceparent` for a call that is made within the span.
    #[must_use]
    pub fn traceparent(&self) -> String {
        propagation::inject(&self.context)
    }

    /// Adds an attribute to the span, or replaces its value.
    pub fn set(&self, attribute: KeyValue) {
        self.context.span().set_attribute(attribute);
    }

    /// Marks the span as failed, for the reason `why`.
    pub fn fail(&self, why: String) {
        self.context.span().set_attribute(KeyValue::new(names::ERROR_TYPE, why.clone()));
        self.context.span().set_status(Status::error(why));
    }
}

/// A place in a sampled trace, for parts of the trace that are carried out elsewhere.
#[derive(Debug, Clone)]
pub struct Parent(Context);

impl Parent {
    /// The place where this code runs; `None` outside of a sampled trace.
    #[must_use]
    pub fn current() -> Option<Self> {
        TRACER.get()?;
        Context::map_current(|context| {
            let span = context.span();
            let span = span.span_context();
            span.is_sampled().then(|| Self::of(span.clone()))
        })
    }

    fn of(span: SpanContext) -> Self {
        Self(Context::new().with_remote_span_context(span))
    }

    /// The context in which a part that belongs to this place runs elsewhere.
    #[must_use]
    pub fn context(&self) -> Context {
        self.0.clone()
    }

    /// Records a part that took from `part.began` until now. Where one call carried parts of
    /// several traces, every part but the first gets the place of the first as its `link`.
    pub fn record(&self, part: Part, link: Option<&Self>) {
        let mut builder = SpanBuilder::from_name(part.name)
            .with_kind(SpanKind::Client)
            .with_start_time(part.began)
            .with_attributes(part.attributes);
        if let Some(Self(linked)) = link {
            let span = linked.span().span_context().clone();
            builder = builder.with_links(vec![Link::with_context(span)]);
        }
        let Some(tracer) = TRACER.get() else { return };
        let mut span = tracer.build_with_context(builder, &self.0);
        if let Some(error) = part.error {
            span.set_attribute(KeyValue::new(names::ERROR_TYPE, error.clone()));
            span.set_status(Status::error(error));
        }
        span.end();
    }
}

/// Work that was carried out for one trace or for several, such as a call to Redis.
#[derive(Debug, Clone)]
pub struct Part {
    /// The name of the span.
    pub name: Cow<'static, str>,
    /// When the work began.
    pub began: SystemTime,
    /// The attributes of the span, with names of [`names`].
    pub attributes: Vec<KeyValue>,
    /// Why the work failed, if it did.
    pub error: Option<String>,
}

/// The ids of the trace and the span in which this code runs, for the log.
#[must_use]
pub fn current_ids() -> Option<(String, String)> {
    TRACER.get()?;
    Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        span.is_sampled().then(|| (span.trace_id().to_string(), span.span_id().to_string()))
    })
}

//! The spans of gRPC calls, at the caller's end and at the server's end.

use std::{
    borrow::Cow,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as Poller, Poll},
};

use bytes::Buf;
use futures_util::future::Either;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame};
use lonja_telemetry::traces::{self, Parent, Span, names};
use opentelemetry::{
    KeyValue,
    context::FutureExt as _,
    trace::{SpanBuilder, SpanKind},
};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::method::Method;

/// The number of attributes for which the span of a call reserves memory.
const ATTRIBUTES: usize = 6;

/// The end of a call at which a span is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Client,
    Server,
}

impl End {
    /// Whether a code is an error by OpenTelemetry's conventions: for the caller every code but
    /// `OK`, for the server only a code with which the server is to blame.
    fn is_error(self, code: Code) -> bool {
        match self {
            Self::Client => code != Code::Ok,
            Self::Server => matches!(
                code,
                Code::Unknown
                    | Code::DeadlineExceeded
                    | Code::Unimplemented
                    | Code::Internal
                    | Code::Unavailable
                    | Code::DataLoss
            ),
        }
    }
}

fn builder(method: Cow<'static, str>, kind: SpanKind) -> SpanBuilder {
    let mut attributes = Vec::with_capacity(ATTRIBUTES);
    attributes.push(KeyValue::new(names::RPC_SYSTEM_NAME, "grpc"));
    attributes.push(KeyValue::new(names::RPC_METHOD, method.clone()));
    SpanBuilder::from_name(method).with_kind(kind).with_attributes(attributes)
}

/// The name of the method that a request over HTTP calls.
pub(crate) fn method_of<T>(request: &Request<T>) -> String {
    request.uri().path().trim_start_matches('/').to_owned()
}

/// Adds the caller's place in a trace to the headers of a call over HTTP.
pub(crate) fn inject(span: &Span, request: &mut Request<Body>) {
    if let Ok(place) = HeaderValue::try_from(span.traceparent()) {
        request.headers_mut().insert(traces::HEADER, place);
    }
}

/// Begins the caller's span of a call. `None` if this code runs outside of a sampled trace.
pub(crate) fn begin_client(
    method: impl Into<Cow<'static, str>>,
    server: Option<&(Arc<str>, u16)>,
) -> Option<Span> {
    let parent = Parent::current()?;
    let span = Span::child(builder(method.into(), SpanKind::Client), &parent)?;
    if let Some((host, port)) = server {
        span.set(KeyValue::new(names::SERVER_ADDRESS, Arc::clone(host)));
        span.set(KeyValue::new(names::SERVER_PORT, i64::from(*port)));
    }
    Some(span)
}

/// Begins the server's span of a call. `None` if the caller is in no sampled trace.
fn begin_server(method: impl Into<Cow<'static, str>>, traceparent: &str) -> Option<Span> {
    let parent = traces::is_on().then(|| traces::extract(traceparent))??;
    Span::child(builder(method.into(), SpanKind::Server), &parent)
}

/// Waits for the answer of a call that does not go over HTTP, and then ends the caller's span.
pub(crate) async fn asked<T>(
    span: Option<Span>,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let answer = answer.await;
    if let Some(span) = span {
        close(&span, answer.as_ref().map_or_else(Status::code, |_| Code::Ok), End::Client);
    }
    answer
}

/// Answers a call that did not come over HTTP, as a part of its caller's trace.
pub(crate) async fn answered<T>(
    method: Method,
    traceparent: &str,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let Some(span) = begin_server(method.name(), traceparent) else { return answer.await };
    let answer = answer.with_context(span.context()).await;
    close(&span, answer.as_ref().map_or_else(Status::code, |_| Code::Ok), End::Server);
    answer
}

/// The spans at both ends of a call of which pages are the answer, within a process. The spans end with
/// the last page.
pub(crate) struct LocalSpans {
    // The server's span ends before the caller's.
    server: Option<Span>,
    client: Span,
}

impl LocalSpans {
    /// Begins the spans of a call. `None` if this code runs outside of a sampled trace.
    pub(crate) fn begin(method: Method) -> Option<Self> {
        let client = begin_client(method.name(), None)?;
        let server = begin_server(method.name(), &client.traceparent());
        Some(Self { server, client })
    }

    /// Waits for what the service answers, as a part of the trace.
    pub(crate) async fn answering<T>(&self, answer: impl Future<Output = T>) -> T {
        match &self.server {
            Some(server) => answer.with_context(server.context()).await,
            None => answer.await,
        }
    }

    /// Sets the code with which the call ended.
    pub(crate) fn end(self, code: Code) {
        if let Some(server) = &self.server {
            close(server, code, End::Server);
        }
        close(&self.client, code, End::Client);
    }
}

/// Waits for the answer of a call over HTTP; the caller's span ends with the answer.
pub(crate) async fn end_client(
    span: Span,
    answer: impl Future<Output = Result<Response<Body>, Status>>,
) -> Result<Response<Body>, Status> {
    match answer.await {
        Ok(response) => Ok(follow(response, span, End::Client)),
        Err(status) => {
            close(&span, status.code(), End::Client);
            Err(status)
        }
    }
}

fn close(span: &Span, code: Code, end: End) {
    span.set(KeyValue::new(names::RPC_RESPONSE_STATUS_CODE, name(code)));
    if end.is_error(code) {
        span.fail(name(code).to_owned());
    }
}

/// The name of a code as gRPC writes it, such as `NOT_FOUND`.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    Some(Code::from_bytes(headers.get("grpc-status")?.as_bytes()))
}

/// Keeps the span open until the whole answer has passed through.
fn follow(response: Response<Body>, span: Span, end: End) -> Response<Body> {
    if let Some(code) = code(response.headers()) {
        close(&span, code, end);
        return response;
    }
    response.map(|body| Body::new(Followed { body, span: Some(span), end }))
}

struct Followed {
    body: Body,
    span: Option<Span>,
    end: End,
}

impl HttpBody for Followed {
    type Data = <Body as HttpBody>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Poller<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        let ended = match &frame {
            Some(Ok(frame)) => frame.trailers_ref().and_then(code),
            Some(Err(status)) => Some(status.code()),
            None => Some(Code::Ok),
        };
        if let Some(code) = ended
            && let Some(span) = self.span.take()
        {
            close(&span, code, self.end);
        }
        Poll::Ready(
            frame.map(|frame| {
                frame.map(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
            }),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// A layer that records the server's span of each call that belongs to a sampled trace.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traced;

impl<S> Layer<S> for Traced {
    type Service = TracedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        TracedService { inner }
    }
}

type Answering<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

/// A service with the layer [`Traced`] around it.
#[derive(Debug, Clone)]
pub struct TracedService<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for TracedService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Answering<S::Error>>;

    fn poll_ready(&mut self, context: &mut Poller<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let traceparent = request.headers().get(traces::HEADER).and_then(|place| place.to_str().ok());
        let span = begin_server(method_of(&request), traceparent.unwrap_or_default());
        let answer = self.inner.call(request);
        let Some(span) = span else { return Either::Left(answer) };
        let context = span.context();
        Either::Right(Box::pin(async move {
            let response = answer.with_context(context).await?;
            Ok(follow(response, span, End::Server))
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::OnceLock, time::SystemTime};

    use futures_util::{StreamExt as _, TryStreamExt as _, stream};
    use http_body_util::{BodyExt as _, Full};
    use opentelemetry::{
        TraceId,
        trace::{Status as SpanStatus, TraceContextExt as _},
    };
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
    use tonic::Response as Answer;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{Pages, local, local_stream};

    const METHOD: Method = Method::new("/lonja.test.v1.TestService/Look");

    /// What runs in a trace of its own, and the spans that have ended in it.
    struct Trace(Span);

    impl Trace {
        fn begin() -> Self {
            exporter();
            Self(Span::root("test", SystemTime::now()).unwrap())
        }

        async fn run<T>(&self, work: impl Future<Output = T>) -> T {
            work.with_context(self.0.context()).await
        }

        /// The spans that have ended, the first to begin first.
        fn ended(&self) -> Vec<SpanData> {
            let trace = self.0.context().span().span_context().trace_id();
            let is_of = |span: &SpanData, trace: TraceId| span.span_context.trace_id() == trace;
            let mut spans = exporter().get_finished_spans().unwrap();
            spans.retain(|span| is_of(span, trace));
            spans.sort_by_key(|span| span.start_time);
            spans
        }
    }

    fn exporter() -> &'static InMemorySpanExporter {
        static EXPORTER: OnceLock<InMemorySpanExporter> = OnceLock::new();
        EXPORTER.get_or_init(|| {
            let exporter = InMemorySpanExporter::default();
            let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
            traces::install(&provider);
            exporter
        })
    }

    fn attribute(span: &SpanData, name: &str) -> String {
        let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
        found.map(|attribute| attribute.value.to_string()).unwrap_or_default()
    }

    /// The two ends of a call: the server's is below the caller's.
    fn ends(spans: &[SpanData]) -> (&SpanData, &SpanData) {
        let [client, server] = spans else { panic!("two spans, not {spans:?}") };
        assert_eq!((&client.span_kind, &server.span_kind), (&SpanKind::Client, &SpanKind::Server));
        assert_eq!(server.parent_span_id, client.span_context.span_id());
        assert!(server.end_time <= client.end_time);
        for span in [client, server] {
            assert_eq!(span.name, METHOD.name());
            assert_eq!(attribute(span, "rpc.method"), METHOD.name());
        }
        (client, server)
    }

    #[tokio::test]
    async fn a_call_within_a_process_has_both_ends() {
        let trace = Trace::begin();
        let answer = trace.run(local(METHOD, async { Ok(Answer::new(traces::current_ids())) })).await;
        let spans = trace.ended();
        let (client, server) = ends(&spans);
        // The service worked within its own span.
        assert_eq!(answer.unwrap().unwrap().1, server.span_context.span_id().to_string());
        for span in [client, server] {
            assert_eq!(attribute(span, "rpc.response.status_code"), "OK");
            assert_eq!(span.status, SpanStatus::Unset);
        }
    }

    #[tokio::test]
    async fn a_refusal_is_an_error_for_the_caller_alone() {
        for (status, is_server_to_blame) in [(Status::not_found("no"), false), (Status::internal("oh"), true)]
        {
            let trace = Trace::begin();
            let answer = trace.run(local::<()>(METHOD, async { Err(status.clone()) })).await;
            assert_eq!(answer.unwrap_err().code(), status.code());
            let spans = trace.ended();
            let (client, server) = ends(&spans);
            assert_eq!(client.status, SpanStatus::error(name(status.code())));
            assert_eq!(attribute(server, "rpc.response.status_code"), name(status.code()));
            assert_eq!(server.status != SpanStatus::Unset, is_server_to_blame);
        }
    }

    #[tokio::test]
    async fn the_spans_of_pages_end_with_the_last_page() {
        let pages = |last| -> Result<Answer<Pages<u8>>, Status> {
            Ok(Answer::new(stream::iter([Ok(1), Ok(2)]).chain(stream::iter(last)).boxed()))
        };
        for (last, code) in [(None, "OK"), (Some(Err(Status::data_loss("cut"))), "DATA_LOSS")] {
            let trace = Trace::begin();
            let mut stream = trace.run(local_stream(METHOD, async { pages(last) })).await.unwrap();
            assert_eq!(stream.next().await.unwrap().unwrap(), 1);
            assert_eq!(trace.ended().len(), 0, "pages are still to come");
            let rest: Result<Vec<u8>, _> = stream.try_collect().await;
            assert_eq!(rest.is_ok(), code == "OK");
            let spans = trace.ended();
            let (client, server) = ends(&spans);
            assert_eq!([client, server].map(|span| attribute(span, "rpc.response.status_code")), [code; 2]);
        }
        // A caller that has seen enough ends the call.
        let trace = Trace::begin();
        drop(trace.run(local_stream(METHOD, async { pages(None) })).await.unwrap());
        ends(&trace.ended());
    }

    #[tokio::test]
    async fn a_call_outside_of_a_trace_has_no_span() {
        exporter();
        let ids = local(METHOD, async { Ok(Answer::new(traces::current_ids())) }).await.unwrap();
        assert_eq!(ids, None);
        assert!(begin_server(METHOD.name(), "00-not-a-place-01").is_none());
    }

    #[tokio::test]
    async fn over_http_the_place_travels_and_the_trailers_end_the_span() {
        let trace = Trace::begin();
        let mut request = Request::builder().uri(METHOD.path()).body(Body::empty()).unwrap();
        inject(&trace.0, &mut request);
        let service = tower::service_fn(async |_: Request<Body>| {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "5".parse().unwrap());
            let body =
                Full::new(bytes::Bytes::from_static(b"page")).with_trailers(async { Some(Ok(trailers)) });
            Ok::<_, Status>(Response::new(Body::new(body)))
        });
        let response = Traced.layer(service).oneshot(request).await.unwrap();
        assert_eq!(trace.ended().len(), 0, "the answer has only begun");
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "page");
        let spans = trace.ended();
        let [server] = &spans[..] else { panic!("one span, not {spans:?}") };
        assert_eq!(attribute(server, "rpc.response.status_code"), "NOT_FOUND");
        assert_eq!(server.status, SpanStatus::Unset);
    }
}

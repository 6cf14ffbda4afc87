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
use lonja_proto::known_path;
use lonja_telemetry::traces::{self, Parent, Span, names};
use opentelemetry::{
    KeyValue,
    context::FutureExt as _,
    trace::{SpanBuilder, SpanKind},
};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

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

fn builder(path: &str, kind: SpanKind) -> SpanBuilder {
    let method: Cow<'static, str> = match known_path(path) {
        Some(path) => path.trim_start_matches('/').into(),
        None => path.trim_start_matches('/').to_owned().into(),
    };
    let mut attributes = Vec::with_capacity(ATTRIBUTES);
    attributes.push(KeyValue::new(names::RPC_SYSTEM_NAME, "grpc"));
    attributes.push(KeyValue::new(names::RPC_METHOD, method.clone()));
    SpanBuilder::from_name(method).with_kind(kind).with_attributes(attributes)
}

/// Adds the caller's place in a trace to the headers of a call over HTTP.
pub(crate) fn inject(span: &Span, request: &mut Request<Body>) {
    if let Ok(place) = HeaderValue::try_from(span.traceparent()) {
        request.headers_mut().insert(traces::HEADER, place);
    }
}

/// Begins the caller's span of a call. `None` if this code runs outside of a sampled trace.
pub(crate) fn begin_client(path: &str, server: Option<&(Arc<str>, u16)>) -> Option<Span> {
    let parent = Parent::current()?;
    let span = Span::child(builder(path, SpanKind::Client), &parent)?;
    if let Some((host, port)) = server {
        span.set(KeyValue::new(names::SERVER_ADDRESS, Arc::clone(host)));
        span.set(KeyValue::new(names::SERVER_PORT, i64::from(*port)));
    }
    Some(span)
}

/// Begins the server's span of a call. `None` if the caller is in no sampled trace.
fn begin_server(path: &str, traceparent: &str) -> Option<Span> {
    let parent = traces::is_on().then(|| traces::extract(traceparent))??;
    Span::child(builder(path, SpanKind::Server), &parent)
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
    path: &str,
    traceparent: &str,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let Some(span) = begin_server(path, traceparent) else { return answer.await };
    let answer = answer.with_context(span.context()).await;
    close(&span, answer.as_ref().map_or_else(Status::code, |_| Code::Ok), End::Server);
    answer
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
        let span = begin_server(request.uri().path(), traceparent.unwrap_or_default());
        let answer = self.inner.call(request);
        let Some(span) = span else { return Either::Left(answer) };
        let context = span.context();
        Either::Right(Box::pin(async move {
            let response = answer.with_context(context).await?;
            Ok(follow(response, span, End::Server))
        }))
    }
}

//! What the generated client of a service is made of: a call goes to an implementation in this process
//! or across the network, and is the same call in traces.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
};

use futures_util::{Stream, StreamExt as _, stream};
use lonja_telemetry::traces::Span;
use tonic::{Code, Response, Status};

use crate::{
    channel::Channel,
    method::Method,
    spans::{LocalSpans, answered, asked, begin_client},
};

/// A stream of pages. The service must end the stream after an error.
pub type Pages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The number of entries in a page: what the caller has asked for, up to `max`, or `default` if the caller has
/// asked for 0 entries.
#[must_use]
pub fn page_size(asked: u32, default: usize, max: usize) -> usize {
    if asked == 0 { default } else { max.min(asked as usize) }
}

/// Where the calls of a client go: to an implementation `S` in this process, or to a service across the
/// network.
pub enum Target<S: ?Sized> {
    /// An implementation in this process.
    Local(Arc<S>),
    /// A service across the network.
    Remote(Channel),
}

impl<S: ?Sized> Clone for Target<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Local(service) => Self::Local(Arc::clone(service)),
            Self::Remote(channel) => Self::Remote(channel.clone()),
        }
    }
}

impl<S: ?Sized> fmt::Debug for Target<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(_) => f.write_str("Local"),
            Self::Remote(channel) => f.debug_tuple("Remote").field(channel).finish(),
        }
    }
}

impl<S: ?Sized> Target<S> {
    /// Whether the service has just said that it holds calls. A service in this process never holds
    /// calls: its store is files of this process.
    #[must_use]
    pub fn is_held(&self) -> bool {
        match self {
            Self::Local(_) => false,
            Self::Remote(channel) => channel.is_held(),
        }
    }
}

/// Waits for the answer of a service in this process.
///
/// # Errors
/// The error that the service gives.
pub async fn local<A>(
    method: Method,
    answer: impl Future<Output = Result<Response<A>, Status>>,
) -> Result<A, Status> {
    let span = begin_client(method.name(), None);
    let traceparent = span.as_ref().map(Span::traceparent).unwrap_or_default();
    asked(span, answered(method, &traceparent, answer)).await.map(Response::into_inner)
}

/// Waits until a service in this process has given its stream. The spans of the call end with the stream.
///
/// # Errors
/// The error that the service gives before there is a stream.
pub async fn local_stream<A: 'static>(
    method: Method,
    answer: impl Future<Output = Result<Response<Pages<A>>, Status>>,
) -> Result<Pages<A>, Status> {
    let Some(spans) = LocalSpans::begin(method) else { return answer.await.map(Response::into_inner) };
    let mut pages = match spans.answering(answer).await {
        Ok(response) => response.into_inner(),
        Err(status) => {
            spans.end(status.code());
            return Err(status);
        }
    };
    let mut spans = Some(spans);
    Ok(Box::pin(stream::poll_fn(move |context| {
        let page = ready!(pages.poll_next_unpin(context));
        let ended = match &page {
            Some(Ok(_)) => return Poll::Ready(page),
            Some(Err(status)) => status.code(),
            None => Code::Ok,
        };
        if let Some(spans) = spans.take() {
            spans.end(ended);
        }
        Poll::Ready(page)
    })))
}

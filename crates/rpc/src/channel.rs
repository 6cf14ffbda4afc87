//! The channel through which clients call a service across the network.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Uri};
use prost::Message;
use tonic::{Status, body::Body, transport::Endpoint};
use tower::{Layer as _, Service, util::BoxCloneSyncService};

use crate::{
    batch::{Batch, UnaryCall},
    dial::Dial,
    held::{HELD_AT_MOST, Held},
    measured::{CLIENT_DURATION, Measured},
    method::Method,
    names::Names,
    replicas::Replicas,
    spans::{asked, begin_client, end_client, inject, method_of},
    unary::decode,
};
use lonja_telemetry::traces::Span;

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a call in a batch may take that is not held.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a connection is pinged, even if idle, and how long the replica may take to answer.
/// Without pings, the address of a machine that has vanished would hold every call.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// The caller's end of a service across the network. Calls go over HTTP/2, each on a stream of its own
/// or in batches.
#[derive(Clone)]
pub struct Channel {
    inner: BoxCloneSyncService<Request<Body>, Response<Body>, Status>,
    /// The host and port of the service.
    server: (Arc<str>, u16),
    batch: Batch,
    held: Held,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("server", &self.server).finish_non_exhaustive()
    }
}

/// An address that no channel can lead to.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the address of a service: use http://HOST:PORT")]
pub struct ChannelError(String);

impl Channel {
    /// Makes a channel to a service at `http://HOST:PORT`, and to each of its replicas if the host
    /// is a name with several addresses. The channel connects when it is first used, and again
    /// whenever a connection is lost.
    ///
    /// # Errors
    /// When the address is not `http://HOST:PORT`.
    pub fn remote(address: &str, names: &Names, dial: Dial) -> Result<Self, ChannelError> {
        let bad = || ChannelError(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| bad())?;
        if uri.scheme_str() != Some("http") || uri.port().is_none() {
            return Err(bad());
        }
        let server = (uri.host().unwrap_or_default().into(), uri.port_u16().unwrap_or_default());
        let replicas = Replicas::new(&uri, names, settings, dial);
        let channel = Measured(CLIENT_DURATION).layer(replicas.clone());
        let inner = BoxCloneSyncService::new(channel);
        let held = Held::default();
        let batch = Batch::new(replicas, CALL_TIMEOUT, held.clone());
        Ok(Self { inner, server, batch, held })
    }

    /// Whether the service has just said that it holds calls, because its store is being restarted.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.is_held()
    }

    /// Calls a unary method in a batch: calls that wait at the same moment travel together.
    ///
    /// # Errors
    /// The error that the service gives, or `UNAVAILABLE` when the service cannot be reached.
    pub async fn call<A: Message + Default>(
        &self,
        method: Method,
        request: &impl Message,
    ) -> Result<A, Status> {
        let span = begin_client(method.name(), Some(&self.server));
        let traceparent = span.as_ref().map(Span::traceparent).unwrap_or_default();
        let message = request.encode_to_vec().into();
        let call = UnaryCall { path: method.path().to_owned(), traceparent, message };
        decode(asked(span, self.batch.call(call)).await?)
    }
}

/// Sets how long connecting, calls and pings may take on a connection to a replica.
fn settings(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        // Bounds the time until an answer begins, for callers without a deadline of their own, such as the
        // sweeper. A call may be held for this long. The pages of a stream have no deadline here.
        .timeout(HELD_AT_MOST)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let span = begin_client(method_of(&request), Some(&self.server));
        if let Some(span) = &span {
            inject(span, &mut request);
        }
        let answer = self.inner.call(request);
        match span {
            Some(span) => Box::pin(end_client(span, answer)),
            None => answer,
        }
    }
}

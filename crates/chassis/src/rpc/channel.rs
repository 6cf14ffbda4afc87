//! The channel that every generated client sits on.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Uri};
use tonic::{Status, body::Body, transport::Endpoint};
use tower::{Layer as _, Service, ServiceExt as _, util::BoxCloneSyncService};

use super::{batch::Batch, measured::Measured, names::Names, replicas::Replicas, tls::Tls};
use crate::trace::{Traced, begin_client, end_client};

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a call that no deadline of its own ends may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// An idle connection is asked for a sign of life this often, and must give it in time:
/// otherwise the address of a machine that vanished would hold every call.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// A way to one service: over HTTP/2, or straight to its implementation.
#[derive(Debug, Clone)]
pub struct Channel {
    inner: BoxCloneSyncService<Request<Body>, Response<Body>, Status>,
    /// Host and port, and who is there, across the network.
    server: Option<(Arc<(String, u16)>, Replicas)>,
    /// Where some calls wait for others.
    batch: Option<Batch>,
}

/// An address that no channel can lead to.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no service address: use http://HOST:PORT")]
pub struct ChannelError(String);

impl Channel {
    /// A channel to a service in this process: no HTTP/2, no port.
    pub fn local<S>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let service = Traced.layer(service).map_err(|never| match never {});
        Self { inner: BoxCloneSyncService::new(service), server: None, batch: None }
    }

    /// A channel to a service at `http://HOST:PORT`, to each of its replicas if the host is
    /// a name with several addresses. It connects when first used, and again whenever a
    /// connection is lost.
    ///
    /// With an identity, the service must show a certificate of this name and the same
    /// authority.
    ///
    /// # Errors
    /// When the address cannot be one.
    pub fn remote(
        address: &str,
        names: &Names,
        secure: Option<(Tls, &'static str)>,
    ) -> Result<Self, ChannelError> {
        let bad = || ChannelError(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| bad())?;
        if uri.scheme_str() != Some("http") || uri.port().is_none() {
            return Err(bad());
        }
        let server = (uri.host().unwrap_or_default().to_owned(), uri.port_u16().unwrap_or_default());
        let replicas = Replicas::new(&uri, names, settings, secure);
        let channel = Measured("lonja_rpc_client_duration_seconds").layer(replicas.clone());
        let inner = BoxCloneSyncService::new(channel);
        Ok(Self { inner, server: Some((Arc::new(server), replicas)), batch: None })
    }

    /// Has calls of these unary methods, each with that of its service, travel together
    /// when they wait at the same moment. Within a process nothing is gained by it.
    #[must_use]
    pub fn batched(mut self, methods: &[&'static str]) -> Self {
        if let Some((_, replicas)) = &self.server {
            self.batch = Some(Batch::new(self.inner.clone(), replicas.clone(), methods, CALL_TIMEOUT));
        }
        self
    }
}

/// How long things take on a connection to a replica.
fn settings(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(CALL_TIMEOUT)
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
        let span = begin_client(&mut request, self.server.as_ref().map(|(server, _)| &**server));
        let answer = match &self.batch {
            Some(batch) if batch.takes(request.uri().path()) => Box::pin(batch.clone().call(request)),
            _ => self.inner.call(request),
        };
        match span {
            Some(span) => Box::pin(end_client(span, answer)),
            None => answer,
        }
    }
}

//! A collector of traces that throws them away unread. A real collector works on another machine;
//! on this machine, the work of a real collector would be measured as work of Lonja.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tokio::runtime::{Builder, Runtime};
use tonic::{
    Status,
    body::Body,
    server::{Grpc, NamedService},
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

/// A server that receives spans over OTLP (gRPC), on a thread of its own, until this value is
/// dropped.
pub(crate) struct Sink {
    /// The URL to which spans are sent.
    pub(crate) endpoint: String,
    _runtime: Runtime,
}

impl Sink {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let incoming = runtime.block_on(async { TcpIncoming::bind(([127, 0, 0, 1], 0).into()) })?;
        let endpoint = format!("http://{}", incoming.local_addr()?);
        runtime.spawn(Server::builder().add_service(Forgetting).serve_with_incoming(incoming));
        Ok(Self { endpoint, _runtime: runtime })
    }
}

#[derive(Clone)]
struct Forgetting;

impl NamedService for Forgetting {
    const NAME: &str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl Service<Request<Body>> for Forgetting {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move {
            // `()` is a message without fields: every field is unknown and skipped.
            let mut grpc = Grpc::new(ProstCodec::<(), ()>::default());
            let forget = service_fn(async |_| Ok::<_, Status>(tonic::Response::new(())));
            Ok(grpc.unary(forget, request).await)
        })
    }
}

//! Durations of calls across the network, at both ends.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use metrics::histogram;
use tokio::time::Instant;
use tonic::{Code, body::Body};
use tower::{Layer, Service};

/// The name of the metric for the durations of calls that this process makes.
pub(crate) const CLIENT_DURATION: &str = "lonja_rpc_client_duration_seconds";
/// The name of the metric for the durations of calls that this process answers.
pub const SERVER_DURATION: &str = "lonja_rpc_server_duration_seconds";

/// A layer that records how long calls take until the answer begins, in the metric of this name.
#[derive(Debug, Clone, Copy)]
pub struct Measured(pub &'static str);

impl<S> Layer<S> for Measured {
    type Service = MeasuredService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        MeasuredService { name: self.0, inner }
    }
}

/// A service with the layer [`Measured`] around it.
#[derive(Debug, Clone)]
pub struct MeasuredService<S> {
    name: &'static str,
    inner: S,
}

impl<S> Service<Request<Body>> for MeasuredService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let started = Instant::now();
        let path = request.uri().path().to_owned();
        let name = self.name;
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            record(name, &path, code(answer.as_ref().ok()), started);
            answer
        })
    }
}

/// The code in the head of an answer, or `OK` if there is no code or no answer.
fn code(answer: Option<&Response<Body>>) -> Code {
    let status = answer.and_then(|answer| answer.headers().get("grpc-status"));
    status.map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}

/// Records how long a call took, if its method is one of Lonja's. Anyone may ask for any path, and
/// each path would become a time series of its own.
pub(crate) fn record(name: &'static str, path: &str, code: Code, started: Instant) {
    let method = path.trim_start_matches('/');
    if method.starts_with("lonja.") && code != Code::Unimplemented {
        histogram!(name, "method" => method.to_owned()).record(started.elapsed());
    }
}

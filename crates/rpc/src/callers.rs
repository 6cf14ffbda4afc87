//! Which service may call which method, if callers show certificates.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use lonja_telemetry::throttle::Throttle;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::{method::Method, tls::Caller};

/// The method that carries batches. Every known service may call it: each call of a batch is
/// checked by itself.
const BATCH: &str = "/lonja.batch.v1.BatchService/Converse";

/// The services that may call, each with the methods that it may call.
pub type Callers = &'static [(&'static str, &'static [Method])];

/// A layer that lets only the calls of [`Callers`] through. With `None`, everyone may call
/// everything.
#[derive(Debug, Clone, Copy)]
pub struct Allowed(pub Option<Callers>);

impl<S> Layer<S> for Allowed {
    type Service = AllowedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AllowedService { allowed: *self, inner }
    }
}

impl Allowed {
    /// Lets a call through, or says why not.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, which is logged.
    pub(crate) fn check(self, caller: Option<&Caller>, path: &str) -> Result<(), Status> {
        static REFUSED: Throttle = Throttle::events();
        let Some(callers) = self.0 else { return Ok(()) };
        if caller.is_some_and(|caller| may_call(callers, caller, path)) {
            return Ok(());
        }
        if let Some(suppressed) = REFUSED.admit() {
            let caller = caller.map_or_else(String::new, ToString::to_string);
            tracing::warn!(
                caller,
                method = path.trim_start_matches('/'),
                suppressed,
                "a call was refused: this caller may not call this method"
            );
        }
        Err(Status::permission_denied("this caller may not call this method"))
    }
}

/// A service with the layer [`Allowed`] around it.
#[derive(Debug, Clone)]
pub struct AllowedService<S> {
    allowed: Allowed,
    inner: S,
}

impl<S> Service<Request<Body>> for AllowedService<S>
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
        match self.allowed.check(request.extensions().get::<Caller>(), request.uri().path()) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(refusal) => Box::pin(async move { Ok(refusal.into_http()) }),
        }
    }
}

fn may_call(callers: Callers, caller: &Caller, path: &str) -> bool {
    let has = |methods: &[Method]| methods.iter().any(|method| method.path() == path);
    callers.iter().any(|(name, methods)| caller.is(name) && (path == BATCH || has(methods)))
}

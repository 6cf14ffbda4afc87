//! Unary calls that wait at the same moment travel as one (`lonja.batch.v1`).
//!
//! Most of what a small call costs both ends is HTTP/2, whatever it asks. The client puts
//! calls of the methods that it was told in a queue and sends what waits there together; the
//! server has each answered by its service, and the spans, durations and refusals of each
//! are the same as if it had come alone.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use lonja_proto::batch::{
    CallRequest, CallResponse, UnaryAnswer, UnaryCall, batch_service_client::BatchServiceClient,
    batch_service_server::BatchService,
};
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Status, body::Body};
use tower::{ServiceExt as _, util::BoxCloneSyncService};

use super::{replicas::Replicas, tls::Caller};

/// Calls that may wait.
const QUEUE: usize = 16_384;
/// Calls in one.
const BATCH: usize = 256;
/// Calls in one that are answered.
const MAX_BATCH: usize = 1024;
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

type Inner = BoxCloneSyncService<Request<Body>, Response<Body>, Status>;

struct Pending {
    call: UnaryCall,
    answer: oneshot::Sender<Result<UnaryAnswer, Status>>,
}

/// The client's side: where calls wait.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    methods: Arc<[&'static str]>,
    queue: mpsc::Sender<Pending>,
}

impl Batch {
    /// Calls of these methods, each with that of its service, go through this channel
    /// together. Sends until its last clone is dropped.
    pub(super) fn new(inner: Inner, replicas: Replicas, methods: &[&'static str], timeout: Duration) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(send_until_dropped(inner, replicas, waiting, timeout));
        Self { methods: methods.into(), queue }
    }

    /// Whether a call belongs here.
    pub(super) fn takes(&self, path: &str) -> bool {
        self.methods.iter().any(|method| path.strip_prefix('/') == Some(method))
    }

    /// Carries a call.
    pub(super) async fn call(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        let message = message(body.collect().await?.to_bytes())?;
        let traceparent = parts.headers.get("traceparent").and_then(|value| value.to_str().ok());
        let path = parts.uri.path().to_owned();
        let call = UnaryCall { path, traceparent: traceparent.unwrap_or_default().to_owned(), message };
        let (answer, answered) = oneshot::channel();
        let pending = Pending { call, answer };
        self.queue.try_send(pending).map_err(|_| Status::unavailable("too many calls wait"))?;
        let answer = answered.await.unwrap_or_else(|_| Err(Status::unavailable("closed")))?;
        let code = Code::from_i32(answer.code);
        if code != Code::Ok {
            return Err(Status::with_details(code, answer.text, answer.details));
        }
        let mut response = Response::new(Body::new(Full::new(frame(&answer.message))));
        // In the head, so that no trailers are waited for.
        response.headers_mut().insert("grpc-status", HeaderValue::from_static("0"));
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        Ok(response)
    }
}

async fn send_until_dropped(
    inner: Inner,
    replicas: Replicas,
    mut waiting: mpsc::Receiver<Pending>,
    timeout: Duration,
) {
    let client = BatchServiceClient::new(inner);
    let mut batches = FuturesUnordered::new();
    let mut next = Vec::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = batches.next() => {}
            // One under way at each replica: more would be smaller, and each costs the same.
            taken = waiting.recv_many(&mut next, BATCH), if batches.len() < replicas.count().max(1) => {
                if taken == 0 {
                    break;
                }
                batches.push(send(client.clone(), std::mem::take(&mut next), timeout));
            }
        }
    }
    while batches.next().await.is_some() {}
}

async fn send(mut client: BatchServiceClient<Inner>, batch: Vec<Pending>, timeout: Duration) {
    let (calls, waiting): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|pending| (pending.call, pending.answer)).unzip();
    let count = calls.len();
    let answers = tokio::time::timeout(timeout, client.call(CallRequest { calls })).await;
    let answers = match answers {
        Ok(Ok(response)) if response.get_ref().answers.len() == count => Ok(response.into_inner().answers),
        Ok(Ok(_)) => Err(Status::internal("a batch was answered with another number of answers")),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded("it does not answer")),
    };
    match answers {
        Ok(answers) => {
            for (waiting, answer) in waiting.into_iter().zip(answers) {
                // Whoever asked may have given up waiting.
                let _ = waiting.send(Ok(answer));
            }
        }
        Err(status) => {
            for waiting in waiting {
                let _ = waiting.send(Err(status.clone()));
            }
        }
    }
}

fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    // Bounded by what a message may have.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// The only message of a body.
fn message(framed: Bytes) -> Result<Bytes, Status> {
    let malformed = || Status::internal("not one uncompressed message");
    let (prefix, message) = framed.split_first_chunk::<PREFIX>().ok_or_else(malformed)?;
    let [0, length @ ..] = prefix else { return Err(malformed()) };
    if u32::from_be_bytes(*length) as usize != message.len() {
        return Err(malformed());
    }
    Ok(framed.slice(PREFIX..))
}

/// The server's side: answers batches from the services beside it.
#[derive(Debug, Clone)]
pub(super) struct BatchGrpc {
    services: BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>,
}

impl BatchGrpc {
    pub(super) fn new(services: BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>) -> Self {
        Self { services }
    }

    async fn answer(&self, call: UnaryCall, caller: Option<&Caller>) -> UnaryAnswer {
        let answered = match request(call, caller) {
            Ok(request) => match self.services.clone().oneshot(request).await {
                Ok(response) => answer(response).await,
                Err(never) => match never {},
            },
            Err(status) => Err(status),
        };
        match answered {
            Ok(message) => UnaryAnswer { code: Code::Ok.into(), message, ..UnaryAnswer::default() },
            Err(status) => UnaryAnswer {
                code: status.code().into(),
                text: status.message().to_owned(),
                details: Bytes::copy_from_slice(status.details()),
                message: Bytes::new(),
            },
        }
    }
}

fn request(call: UnaryCall, caller: Option<&Caller>) -> Result<Request<Body>, Status> {
    // Anything else of this server, this very service too, is called by itself.
    if !call.path.starts_with("/lonja.") || call.path.starts_with("/lonja.batch.") {
        return Err(Status::unimplemented("no method that a batch may call"));
    }
    let mut request = Request::post(call.path).header("content-type", "application/grpc");
    if !call.traceparent.is_empty() {
        request = request.header("traceparent", call.traceparent);
    }
    if let Some(caller) = caller {
        request = request.extension(caller.clone());
    }
    let body = Body::new(Full::new(frame(&call.message)));
    request.body(body).map_err(|error| Status::invalid_argument(error.to_string()))
}

async fn answer(response: Response<Body>) -> Result<Bytes, Status> {
    let (parts, body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&parts.headers)
        && status.code() != Code::Ok
    {
        return Err(status);
    }
    let body = body.collect().await?;
    if let Some(status) = body.trailers().and_then(Status::from_header_map)
        && status.code() != Code::Ok
    {
        return Err(status);
    }
    message(body.to_bytes())
}

#[tonic::async_trait]
impl BatchService for BatchGrpc {
    async fn call(
        &self,
        request: tonic::Request<CallRequest>,
    ) -> Result<tonic::Response<CallResponse>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let calls = request.into_inner().calls;
        if calls.len() > MAX_BATCH {
            return Err(Status::invalid_argument("calls: at most 1024"));
        }
        let answers = join_all(calls.into_iter().map(|call| self.answer(call, caller.as_ref()))).await;
        Ok(tonic::Response::new(CallResponse { answers }))
    }
}

//! Unary calls that wait at the same moment travel as one (`lonja.batch.v1`).
//!
//! Most of what a small call costs both ends is HTTP/2, whatever it asks. The client puts
//! calls in a queue and sends what waits there together; the server has each answered by
//! its service, and the spans, durations and refusals of each are the same as if it had
//! come alone.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use http::{Request, Response};
use lonja_proto::batch::{
    CallRequest, CallResponse, UnaryAnswer, UnaryCall, batch_service_client::BatchServiceClient,
    batch_service_server::BatchService,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tonic::{Code, Status, body::Body};
use tower::util::BoxCloneSyncService;

use super::{callers::Allowed, measured, replicas::Replicas, server::DURATION, tls::Caller, unary::Unary};
use crate::trace;

/// Calls that may wait.
const QUEUE: usize = 16_384;
/// Calls in one.
const BATCH: usize = 256;
/// Calls in one that are answered.
const MAX_BATCH: usize = 1024;

type Inner = BoxCloneSyncService<Request<Body>, Response<Body>, Status>;

struct Pending {
    call: UnaryCall,
    answer: oneshot::Sender<Result<UnaryAnswer, Status>>,
}

/// The client's side: where calls wait.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    queue: mpsc::Sender<Pending>,
}

impl Batch {
    /// Sends what is left here through this channel, until its last clone is dropped.
    pub(super) fn new(inner: Inner, replicas: Replicas, timeout: Duration) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(send_until_dropped(inner, replicas, waiting, timeout));
        Self { queue }
    }

    /// Carries a call.
    pub(super) async fn call(&self, call: UnaryCall) -> Result<Bytes, Status> {
        let (answer, answered) = oneshot::channel();
        let pending = Pending { call, answer };
        self.queue.try_send(pending).map_err(|_| Status::unavailable("too many calls wait"))?;
        let answer = answered.await.unwrap_or_else(|_| Err(Status::unavailable("closed")))?;
        match Code::from_i32(answer.code) {
            Code::Ok => Ok(answer.message),
            code => Err(Status::with_details(code, answer.text, answer.details)),
        }
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

/// The server's side: answers batches with the service beside it.
pub(super) struct BatchGrpc {
    service: Arc<dyn Unary>,
    allowed: Allowed,
}

impl BatchGrpc {
    pub(super) fn new(service: Arc<dyn Unary>, allowed: Allowed) -> Self {
        Self { service, allowed }
    }

    async fn answer(&self, call: UnaryCall, caller: Option<&Caller>) -> UnaryAnswer {
        let UnaryCall { path, traceparent, message } = call;
        let started = Instant::now();
        let answer = trace::answered(&path, &traceparent, async {
            self.allowed.check(caller, &path)?;
            self.service.answer(&path, message).await
        });
        let answer = answer.await;
        measured::record(DURATION, &path, answer.as_ref().map_or_else(Status::code, |_| Code::Ok), started);
        match answer {
            Ok(message) => UnaryAnswer { message, ..UnaryAnswer::default() },
            Err(status) => UnaryAnswer {
                code: status.code().into(),
                text: status.message().to_owned(),
                details: Bytes::copy_from_slice(status.details()),
                message: Bytes::new(),
            },
        }
    }
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

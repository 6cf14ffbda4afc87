//! Unary calls that wait at the same moment travel as one (`lonja.batch.v1`).
//!
//! Most of the cost of a small call is HTTP/2, at both ends and whatever the call asks. The client
//! puts calls in a queue and sends those that wait there together. The server has each call
//! answered by its service. Each call has the spans, durations and refusals that it would have
//! alone.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt as _,
    future::{BoxFuture, join_all},
    stream::{self, FuturesUnordered},
};
use lonja_proto::{
    batch::{ConverseRequest, ConverseResponse, UnaryAnswer, UnaryCall, batch_service_server::BatchService},
    known_path,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Instant, Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::spans;
use super::{
    callers::Allowed,
    conversation::{self, Conversation},
    held::{Held, SIGN},
    measured,
    replicas::Replicas,
    server::DURATION,
    tls::Caller,
    unary::{Unary, unknown},
};

/// The largest number of calls that may wait for a service.
const QUEUE: usize = 16_384;
/// The largest number of calls that are sent in one batch.
const BATCH: usize = 256;
/// The largest number of calls in a batch that is answered; a larger batch is refused.
const MAX_BATCH: usize = 1024;

struct Pending {
    call: UnaryCall,
    answer: oneshot::Sender<Result<UnaryAnswer, Status>>,
}

/// The client's side: a queue in which calls wait.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    queue: mpsc::Sender<Pending>,
}

impl Batch {
    /// Makes a queue whose calls are sent to `replicas` until the last clone of the queue is
    /// dropped. A batch that is not answered within `timeout` fails, unless the service says in
    /// `held` that it holds the batch.
    pub(super) fn new(replicas: Replicas, timeout: Duration, held: Held) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(send_until_dropped(replicas, waiting, timeout, held));
        Self { queue }
    }

    /// Has a call answered, and gives its serialized response.
    pub(super) async fn call(&self, call: UnaryCall) -> Result<Bytes, Status> {
        let (answer, answered) = oneshot::channel();
        let pending = Pending { call, answer };
        self.queue.try_send(pending).map_err(|_| Status::unavailable("too many calls wait"))?;
        let answer = answered.await.unwrap_or_else(|_| Err(Status::unavailable("the channel is closed")))?;
        match Code::from_i32(answer.code) {
            Code::Ok => Ok(answer.message),
            code => Err(Status::with_details(code, answer.text, answer.details)),
        }
    }
}

async fn send_until_dropped(
    replicas: Replicas,
    mut waiting: mpsc::Receiver<Pending>,
    timeout: Duration,
    held: Held,
) {
    let mut batches = FuturesUnordered::new();
    let mut kept = Vec::new();
    let mut tidying = time::interval(conversation::AGE);
    tidying.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = Vec::new();
    loop {
        tokio::select! {
            biased;
            Some(conversation) = batches.next() => kept.extend(conversation),
            // At each replica one batch is under way: more batches would be smaller, and each would
            // cost the same.
            taken = waiting.recv_many(&mut next, BATCH), if batches.len() < replicas.count().max(1) => {
                if taken == 0 {
                    break;
                }
                batches.push(send(&replicas, kept.pop(), std::mem::take(&mut next), timeout, &held));
            }
            // A conversation that is not needed any more must not delay the end of its replica.
            _ = tidying.tick(), if !kept.is_empty() => kept.retain_mut(Conversation::may_go_on),
        }
    }
    while batches.next().await.is_some() {}
}

/// Has a batch answered. Gives back the conversation if it can carry another batch.
async fn send(
    replicas: &Replicas,
    kept: Option<Conversation>,
    batch: Vec<Pending>,
    timeout: Duration,
    held: &Held,
) -> Option<Conversation> {
    // A caller that has given up waiting has reported a failure, so its call must not be sent.
    let batch = batch.into_iter().filter(|pending| !pending.answer.is_closed());
    let (calls, waiting): (Vec<_>, Vec<_>) = batch.map(|pending| (pending.call, pending.answer)).unzip();
    if calls.is_empty() {
        return kept;
    }
    match conversation::carry(replicas, kept, ConverseRequest { calls }, timeout, held).await {
        Ok((answers, conversation)) => {
            for (waiting, answer) in waiting.into_iter().zip(answers) {
                // Whoever asked may have given up waiting.
                let _ = waiting.send(Ok(answer));
            }
            Some(conversation)
        }
        Err(status) => {
            for waiting in waiting {
                let _ = waiting.send(Err(status.clone()));
            }
            None
        }
    }
}

/// The server's side: has `service` answer the calls of batches.
#[derive(Clone)]
pub(super) struct BatchGrpc {
    service: Arc<dyn Unary>,
    allowed: Allowed,
    shutdown: CancellationToken,
}

impl BatchGrpc {
    /// Makes a server of batches that takes none after shutdown has begun.
    pub(super) fn new(service: Arc<dyn Unary>, allowed: Allowed, shutdown: CancellationToken) -> Self {
        Self { service, allowed, shutdown }
    }

    async fn answer(&self, call: UnaryCall, caller: Option<&Caller>) -> UnaryAnswer {
        let UnaryCall { path, traceparent, message } = call;
        // Only a known path gets into a log, a metric or a trace.
        let Some(path) = known_path(&path) else { return answer_of(Err(unknown())) };
        let started = Instant::now();
        let answer = spans::answered(path, &traceparent, async {
            self.allowed.check(caller, path)?;
            self.service.answer(path, message).await
        });
        let answer = answer.await;
        measured::record(DURATION, path, answer.as_ref().map_or_else(Status::code, |_| Code::Ok), started);
        answer_of(answer)
    }
}

fn answer_of(answer: Result<Bytes, Status>) -> UnaryAnswer {
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

#[tonic::async_trait]
impl BatchService for BatchGrpc {
    type ConverseStream = Pin<Box<dyn Stream<Item = Result<ConverseResponse, Status>> + Send>>;

    async fn converse(
        &self,
        request: tonic::Request<Streaming<ConverseRequest>>,
    ) -> Result<tonic::Response<Self::ConverseStream>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let mut signs = time::interval(SIGN);
        signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let conversation =
            Conversing { batch: self.clone(), caller, requests: request.into_inner(), signs, work: None };
        let answers = stream::try_unfold(conversation, async |mut conversation| {
            let response = conversation.next().await?;
            Ok(response.map(|response| (response, conversation)))
        });
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}

/// The server's side of a conversation.
struct Conversing {
    batch: BatchGrpc,
    caller: Option<Caller>,
    requests: Streaming<ConverseRequest>,
    /// The moments at which the caller is told that a batch is held.
    signs: Interval,
    /// The answers of the batch that was taken last, if it is not answered yet.
    work: Option<BoxFuture<'static, Vec<UnaryAnswer>>>,
}

impl Conversing {
    /// The next response; `None` after the last.
    async fn next(&mut self) -> Result<Option<ConverseResponse>, Status> {
        let mut work = match self.work.take() {
            Some(work) => work,
            None => match self.take().await? {
                Some(work) => work,
                None => return Ok(None),
            },
        };
        loop {
            tokio::select! {
                biased;
                answers = &mut work => return Ok(Some(ConverseResponse { answers, held: false })),
                _ = self.signs.tick() => {
                    if self.batch.service.holds() {
                        self.work = Some(work);
                        return Ok(Some(ConverseResponse { answers: Vec::new(), held: true }));
                    }
                }
            }
        }
    }

    /// Takes the next batch, and begins to answer it. A batch that was taken is answered. After
    /// shutdown has begun, none is taken.
    async fn take(&mut self) -> Result<Option<BoxFuture<'static, Vec<UnaryAnswer>>>, Status> {
        let next = self.batch.shutdown.run_until_cancelled(self.requests.message()).await;
        let Some(ConverseRequest { calls }) = next.transpose()?.flatten() else { return Ok(None) };
        if calls.len() > MAX_BATCH {
            return Err(Status::invalid_argument("too many calls in a batch: at most 1024"));
        }
        let (batch, caller) = (self.batch.clone(), self.caller.clone());
        let work =
            async move { join_all(calls.into_iter().map(|call| batch.answer(call, caller.as_ref()))).await };
        Ok(Some(Box::pin(work)))
    }
}

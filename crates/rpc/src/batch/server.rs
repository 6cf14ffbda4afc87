//! The service's end of batches.

use std::{fmt, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::{
    Stream,
    future::{BoxFuture, join_all},
    stream,
};
use lonja_proto::{
    batch::{ConverseRequest, ConverseResponse, UnaryAnswer, UnaryCall, batch_service_server::BatchService},
    known_path,
};
use tokio::time::{self, Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::{
    callers::Allowed,
    held::SIGN,
    measured::{self, SERVER_DURATION},
    spans::answered,
    tls::Caller,
    unary::{Unary, unknown},
};

/// The largest number of calls in a batch that is answered; a larger batch is refused.
const MAX_BATCH: usize = 1024;

/// Has a service answer the calls of batches.
#[derive(Clone)]
pub struct BatchServer {
    service: Arc<dyn Unary>,
    allowed: Allowed,
    shutdown: CancellationToken,
}

impl fmt::Debug for BatchServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchServer").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl BatchServer {
    /// Makes a server of batches that takes none after shutdown has begun.
    #[must_use]
    pub fn new(service: Arc<dyn Unary>, allowed: Allowed, shutdown: CancellationToken) -> Self {
        Self { service, allowed, shutdown }
    }

    async fn answer(&self, call: UnaryCall, caller: Option<&Caller>) -> UnaryAnswer {
        let UnaryCall { path, traceparent, message } = call;
        // Only a known path gets into a log, a metric or a trace.
        let Some(path) = known_path(&path) else { return answer_of(Err(unknown())) };
        let started = Instant::now();
        let answer = answered(path, &traceparent, async {
            self.allowed.check(caller, path)?;
            self.service.answer(path, message).await
        });
        let answer = answer.await;
        measured::record(
            SERVER_DURATION,
            path,
            answer.as_ref().map_or_else(Status::code, |_| Code::Ok),
            started,
        );
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
impl BatchService for BatchServer {
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
    batch: BatchServer,
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

//! The service's end of batches.

use std::{fmt, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt as _,
    future::pending,
    stream::{self, BoxStream, FuturesUnordered},
};
use tokio::time::{self, Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::{
    GATHER,
    generated::{
        ConverseRequest, ConverseResponse, UnaryAnswer, UnaryCall, batch_service_server::BatchService,
    },
};
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

/// Says whether a service holds calls now, because its store is being restarted.
pub type Holds = Arc<dyn Fn() -> bool + Send + Sync>;

/// Has a service answer the calls of batches.
#[derive(Clone)]
pub struct BatchServer {
    service: Arc<dyn Unary>,
    holds: Holds,
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
    pub fn new(service: Arc<dyn Unary>, holds: Holds, allowed: Allowed, shutdown: CancellationToken) -> Self {
        Self { service, holds, allowed, shutdown }
    }

    async fn answer(&self, call: UnaryCall, caller: Option<&Caller>) -> UnaryAnswer {
        let UnaryCall { path, traceparent, message } = call;
        // Only a known path gets into a log, a metric or a trace.
        let Some(method) = self.service.method(&path) else { return answer_of(Err(unknown())) };
        let started = Instant::now();
        let answer = answered(method, &traceparent, async {
            self.allowed.check(caller, method.path())?;
            self.service.answer(method, message).await
        });
        let answer = answer.await;
        measured::record(
            SERVER_DURATION,
            method.path(),
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
            ..UnaryAnswer::default()
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

/// The service's end of a conversation.
struct Conversing {
    batch: BatchServer,
    caller: Option<Caller>,
    requests: Streaming<ConverseRequest>,
    /// The moments at which the caller is told that a batch is held.
    signs: Interval,
    /// What is left of the batch that was taken last.
    work: Option<Work>,
}

/// A batch that is being answered.
struct Work {
    /// The answers, as calls are done. Boxed as one, so that a call costs no box of its own.
    calls: BoxStream<'static, UnaryAnswer>,
    /// The number of calls that are not done.
    left: usize,
    /// The answers that have not been sent.
    answers: Vec<UnaryAnswer>,
    /// When the answers so far are sent, although calls are left; `None` if the caller takes all
    /// answers at once.
    gathered: Option<Instant>,
}

impl Conversing {
    /// The next response; `None` after the last.
    async fn next(&mut self) -> Result<Option<ConverseResponse>, Status> {
        if self.work.is_none() {
            self.work = self.take().await?;
        }
        let Some(work) = &mut self.work else { return Ok(None) };
        loop {
            let is_gathered = async {
                match work.gathered {
                    Some(gathered) if !work.answers.is_empty() => time::sleep_until(gathered).await,
                    _ => pending().await,
                }
            };
            tokio::select! {
                biased;
                answer = work.calls.next() => {
                    work.left = work.left.saturating_sub(1);
                    work.answers.extend(answer);
                }
                () = is_gathered => {
                    work.gathered = Some(Instant::now() + GATHER);
                    let answers = std::mem::take(&mut work.answers);
                    return Ok(Some(ConverseResponse { answers, held: false }));
                }
                _ = self.signs.tick() => {
                    if (self.batch.holds)() {
                        return Ok(Some(ConverseResponse { answers: Vec::new(), held: true }));
                    }
                }
            }
            if work.left == 0 {
                let mut answers = std::mem::take(&mut work.answers);
                if work.gathered.is_none() {
                    // A caller of an earlier version takes the answers in the order of the calls.
                    answers.sort_unstable_by_key(|answer| answer.call);
                }
                self.work = None;
                return Ok(Some(ConverseResponse { answers, held: false }));
            }
        }
    }

    /// Takes the next batch, and begins to answer it. A batch that was taken is answered. After
    /// shutdown has begun, none is taken.
    async fn take(&mut self) -> Result<Option<Work>, Status> {
        let next = self.batch.shutdown.run_until_cancelled(self.requests.message()).await;
        let Some(ConverseRequest { calls, takes_several }) = next.transpose()?.flatten() else {
            return Ok(None);
        };
        if calls.len() > MAX_BATCH {
            return Err(Status::invalid_argument(format!("too many calls in a batch: at most {MAX_BATCH}")));
        }
        let left = calls.len();
        let answer = |(number, call): (u32, UnaryCall)| {
            let (batch, caller) = (self.batch.clone(), self.caller.clone());
            async move { UnaryAnswer { call: number, ..batch.answer(call, caller.as_ref()).await } }
        };
        let calls: FuturesUnordered<_> = (0..).zip(calls).map(answer).collect();
        Ok(Some(Work {
            answers: Vec::with_capacity(left),
            calls: calls.boxed(),
            left,
            gathered: takes_several.then(|| Instant::now() + GATHER),
        }))
    }
}

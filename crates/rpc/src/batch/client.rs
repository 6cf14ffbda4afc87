//! The caller's end of batches: a queue in which calls wait.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use lonja_proto::batch::{ConverseRequest, UnaryAnswer, UnaryCall};
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, MissedTickBehavior},
};
use tonic::{Code, Status};

use super::conversation::{self, Conversation};
use crate::{held::Held, replicas::Replicas};

/// The largest number of calls that may wait for a service.
const QUEUE: usize = 16_384;
/// The largest number of calls that are sent in one batch.
const BATCH: usize = 256;
struct Pending {
    call: UnaryCall,
    answer: oneshot::Sender<Result<UnaryAnswer, Status>>,
}

/// A queue in which calls wait.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    queue: mpsc::Sender<Pending>,
}

impl Batch {
    /// Makes a queue whose calls are sent to `replicas` until the last clone of the queue is
    /// dropped. A batch that is not answered within `timeout` fails, unless the service says in
    /// `held` that it holds the batch.
    pub(crate) fn new(replicas: Replicas, timeout: Duration, held: Held) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(send_until_dropped(replicas, waiting, timeout, held));
        Self { queue }
    }

    /// Has a call answered, and gives its serialized response.
    pub(crate) async fn call(&self, call: UnaryCall) -> Result<Bytes, Status> {
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

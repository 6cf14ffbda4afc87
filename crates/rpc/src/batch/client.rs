//! The caller's end of batches: a queue in which calls wait.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::{self, MissedTickBehavior},
};
use tonic::{Code, Status};

use super::{
    GATHER,
    conversation::{self, Conversation},
    generated::{ConverseRequest, UnaryAnswer, UnaryCall},
};
use crate::{held::Held, replicas::Replicas};

/// The largest number of calls that may wait for a service.
const QUEUE: usize = 16_384;
/// The largest number of calls that are sent in one batch.
const BATCH: usize = 256;
/// The largest number of batches that are not answered whole. While there are so many, none is sent.
const SLOW: usize = 64;

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
    // The batches for which the next one waits: those that are neither answered nor old enough.
    let mut gates = FuturesUnordered::new();
    let mut kept = Vec::new();
    let mut tidying = time::interval(conversation::AGE);
    tidying.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = Vec::new();
    loop {
        tokio::select! {
            biased;
            Some(conversation) = batches.next() => kept.extend(conversation),
            Some(_) = gates.next() => {}
            // At each replica one batch is under way: more batches would be smaller, and each would
            // cost the same.
            taken = waiting.recv_many(&mut next, BATCH), if gates.len() < replicas.count().max(1) && batches.len() < SLOW => {
                if taken == 0 {
                    break;
                }
                let (gate, opened) = oneshot::channel::<()>();
                gates.push(opened);
                batches.push(send(&replicas, kept.pop(), std::mem::take(&mut next), timeout, &held, gate));
            }
            // A conversation that is not needed any more must not delay the end of its replica.
            _ = tidying.tick(), if !kept.is_empty() => kept.retain_mut(Conversation::may_go_on),
        }
    }
    while batches.next().await.is_some() {}
}

/// Has a batch answered, and drops `gate` when the next batch may be sent. Gives back the
/// conversation if it can carry another batch.
async fn send(
    replicas: &Replicas,
    kept: Option<Conversation>,
    batch: Vec<Pending>,
    timeout: Duration,
    held: &Held,
    gate: oneshot::Sender<()>,
) -> Option<Conversation> {
    // A caller that has given up waiting has reported a failure, so its call must not be sent.
    let batch = batch.into_iter().filter(|pending| !pending.answer.is_closed());
    let (calls, waiting): (Vec<_>, Vec<_>) = batch.map(|pending| (pending.call, pending.answer)).unzip();
    if calls.is_empty() {
        return kept;
    }
    let mut waiting: Vec<_> = waiting.into_iter().map(Some).collect();
    let request = ConverseRequest { calls, takes_several: true };
    let mut deliver = |answer: UnaryAnswer| {
        let waiting = waiting.get_mut(answer.call as usize).and_then(Option::take);
        // Whoever asked may have given up waiting.
        waiting.map(|waiting| drop(waiting.send(Ok(answer)))).is_some()
    };
    let carried = conversation::carry(replicas, kept, request, timeout, held, &mut deliver);
    match opening(gate, carried).await {
        Ok(conversation) => Some(conversation),
        Err(status) => {
            for waiting in waiting.into_iter().flatten() {
                let _ = waiting.send(Err(status.clone()));
            }
            None
        }
    }
}

/// Drops `gate` when `carried` is done, or after [`GATHER`].
async fn opening<T>(gate: oneshot::Sender<()>, carried: impl Future<Output = T>) -> T {
    let mut carried = std::pin::pin!(carried);
    let soon = time::timeout(GATHER, &mut carried).await;
    drop(gate);
    match soon {
        Ok(done) => done,
        Err(_) => carried.await,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::echo::{ECHO, HOLD, listen, replicas, serve},
        *,
    };

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn ask(batch: &Batch, path: &str, message: String) -> Result<Bytes, Status> {
        let call = UnaryCall { path: path.to_owned(), traceparent: String::new(), message: message.into() };
        batch.call(call).await
    }

    #[tokio::test]
    async fn calls_go_on_while_one_hangs() {
        let service = serve(listen("127.0.0.1:0").await);
        let batch = Batch::new(replicas(service.address), PATIENCE, Held::default());
        let hanging = tokio::spawn({
            let batch = batch.clone();
            async move { ask(&batch, HOLD, "slow".to_owned()).await }
        });
        service.echo.taken.notified().await;
        for number in 0..200 {
            let message = number.to_string();
            assert_eq!(ask(&batch, ECHO, message.clone()).await.unwrap(), message);
        }
        assert!(!hanging.is_finished());
        service.echo.let_go.notify_one();
        assert_eq!(hanging.await.unwrap().unwrap(), "slow");
    }

    #[tokio::test]
    async fn many_calls_that_hang_are_bounded_and_all_answered_in_the_end() {
        let service = serve(listen("127.0.0.1:0").await);
        let batch = Batch::new(replicas(service.address), PATIENCE, Held::default());
        let mut hanging = Vec::new();
        for number in 0..SLOW {
            let batch = batch.clone();
            hanging.push(tokio::spawn(async move { ask(&batch, HOLD, number.to_string()).await }));
            service.echo.taken.notified().await;
        }
        // As many streams as may be open wait for slow calls, so this call waits too.
        let mut waits = Box::pin(ask(&batch, ECHO, "fast".to_owned()));
        assert!(time::timeout(20 * GATHER, &mut waits).await.is_err());
        service.echo.let_go.notify_one();
        assert_eq!(waits.await.unwrap(), "fast");
        while hanging.iter().any(|call| !call.is_finished()) {
            service.echo.let_go.notify_waiters();
            tokio::task::yield_now().await;
        }
        for (number, call) in hanging.into_iter().enumerate() {
            assert_eq!(call.await.unwrap().unwrap(), number.to_string());
        }
    }

    #[tokio::test]
    async fn a_call_that_nobody_waits_for_is_not_sent() {
        let service = serve(listen("127.0.0.1:0").await);
        let batch = Batch::new(replicas(service.address), PATIENCE, Held::default());
        let mut given_up = Box::pin(ask(&batch, HOLD, "never".to_owned()));
        assert!(futures_util::FutureExt::now_or_never(&mut given_up).is_none());
        drop(given_up);
        assert_eq!(ask(&batch, ECHO, "next".to_owned()).await.unwrap(), "next");
        let taken = time::timeout(10 * GATHER, service.echo.taken.notified()).await;
        assert!(taken.is_err(), "the call was sent");
    }
}

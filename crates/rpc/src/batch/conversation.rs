//! Conversations: streams that carry batches one after the other to one replica. Opening a stream
//! costs both ends more than carrying a batch on a stream that is open.

use std::{error::Error as _, time::Duration};

use futures_util::FutureExt as _;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport};

use super::generated::{
    ConverseRequest, ConverseResponse, UnaryAnswer, batch_service_client::BatchServiceClient,
};
use crate::{
    held::{Held, in_time},
    measured::{self, CLIENT_DURATION},
    replicas::{Replicas, UnderWay, innermost},
};

/// How long a conversation lasts. Replicas that have come get later conversations, and a replica
/// that ends need not wait long for the conversations that it has.
pub(crate) const AGE: Duration = Duration::from_secs(1);
/// The name of the method that carries batches, as it appears in the metrics.
const METHOD: &str = "lonja.batch.v1.BatchService/Converse";

/// A stream that carries one batch at a time.
pub(crate) struct Conversation {
    requests: mpsc::Sender<ConverseRequest>,
    answers: Streaming<ConverseResponse>,
    begun: Instant,
    under_way: UnderWay,
}

impl Conversation {
    /// Begins a conversation with the replica of `channel`.
    async fn begin(channel: transport::Channel, under_way: UnderWay) -> Result<Self, Status> {
        let (requests, sent) = mpsc::channel(1);
        let answers = BatchServiceClient::new(channel).converse(ReceiverStream::new(sent)).await?;
        Ok(Self { requests, answers: answers.into_inner(), begun: Instant::now(), under_way })
    }

    /// Whether another batch may be sent.
    pub(crate) fn may_go_on(&mut self) -> bool {
        // No batch is under way, so whatever the replica sends now is the end of the stream.
        self.begun.elapsed() < AGE && self.answers.message().now_or_never().is_none()
    }

    /// Has a batch answered, and passes each answer on. False when the replica ended the conversation
    /// before it took the batch.
    async fn exchange(
        &mut self,
        request: ConverseRequest,
        held: &Held,
        deliver: &mut (dyn FnMut(UnaryAnswer) -> bool + Send),
    ) -> Result<bool, Status> {
        let mut left = request.calls.len();
        // A replica that takes no more batches has sent the reason, or the end of the stream.
        let _ = self.requests.send(request).await;
        let mut has_begun = false;
        while left > 0 {
            let response = self.answers.message().await.map_err(|status| match status.source() {
                Some(cut) => Status::unavailable(innermost(cut)),
                None => status,
            })?;
            let Some(ConverseResponse { mut answers, held: is_held }) = response else {
                return if has_begun {
                    Err(Status::unavailable("the stream ended within a batch"))
                } else {
                    Ok(false)
                };
            };
            has_begun = true;
            if is_held {
                held.note();
            }
            // A service of an earlier version answers in order, and gives no numbers.
            if answers.len() > 1 && answers.iter().all(|answer| answer.call == 0) {
                (0..).zip(&mut answers).for_each(|(number, answer)| answer.call = number);
            }
            for answer in answers {
                if !deliver(answer) {
                    return Err(Status::internal(
                        "the service answered a call twice, or answered a call that is not in the batch",
                    ));
                }
                left -= 1;
            }
        }
        Ok(true)
    }
}

/// Has a batch answered within `timeout`, or later if the service says that it is held, in the
/// conversation `kept` or in a new one. Passes each answer to `deliver`, which says whether such a call
/// was waiting. Gives the conversation for the next batch.
pub(crate) async fn carry(
    replicas: &Replicas,
    kept: Option<Conversation>,
    request: ConverseRequest,
    timeout: Duration,
    held: &Held,
    deliver: &mut (dyn FnMut(UnaryAnswer) -> bool + Send),
) -> Result<Conversation, Status> {
    let started = Instant::now();
    let answer = answered(replicas, kept, request, held, deliver);
    let answer = in_time(started, timeout, || held.is_held(), answer).await;
    let answer = answer.unwrap_or_else(|| Err(Status::deadline_exceeded("the service does not answer")));
    measured::record(
        CLIENT_DURATION,
        METHOD,
        answer.as_ref().map_or_else(Status::code, |_| Code::Ok),
        started,
    );
    answer
}

/// Begins a conversation with one of the replicas.
async fn begin(replicas: &Replicas) -> Result<Conversation, Status> {
    let mut attempt = replicas.first().await?;
    loop {
        match Conversation::begin(attempt.channel(), attempt.under_way()).await {
            Ok(conversation) => return Ok(conversation),
            // An error without a source is the answer of the replica itself.
            Err(status) if status.source().is_none() => return Err(status),
            Err(status) => attempt = replicas.another(attempt, &status)?,
        }
    }
}

async fn answered(
    replicas: &Replicas,
    kept: Option<Conversation>,
    request: ConverseRequest,
    held: &Held,
    deliver: &mut (dyn FnMut(UnaryAnswer) -> bool + Send),
) -> Result<Conversation, Status> {
    if let Some(mut kept) = kept
        && kept.may_go_on()
        && kept.exchange(request.clone(), held, deliver).await?
    {
        return Ok(kept);
    }
    // A replica that is ending takes no batch, so another replica is asked after it.
    for _ in 0..=replicas.count() {
        let mut fresh = begin(replicas).await?;
        if fresh.exchange(request.clone(), held, deliver).await? {
            return Ok(fresh);
        }
        fresh.under_way.avoid();
    }
    Err(Status::unavailable("every replica of the service is ending"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering};

    use bytes::Bytes;
    use tokio::{io::copy_bidirectional, net::TcpStream, time};
    use tonic::transport::Server;

    use super::{
        super::{
            echo::{ECHO, HOLD, listen, replicas, serve, serve_with},
            generated::UnaryCall,
        },
        *,
    };

    const PATIENCE: Duration = Duration::from_secs(20);
    fn call(path: &str, message: &'static str) -> UnaryCall {
        UnaryCall {
            path: path.to_owned(),
            traceparent: String::new(),
            message: Bytes::from_static(message.as_bytes()),
        }
    }

    fn batch(path: &str, messages: &[&'static str]) -> ConverseRequest {
        let calls = messages.iter().map(|message| call(path, message)).collect();
        ConverseRequest { calls, takes_several: true }
    }

    /// Has a batch answered, and gives the answers in the order of the calls.
    async fn carry(
        replicas: &Replicas,
        kept: Option<Conversation>,
        request: ConverseRequest,
        timeout: Duration,
        held: &Held,
    ) -> Result<(Vec<UnaryAnswer>, Conversation), Status> {
        let mut answers = Vec::new();
        let mut deliver = |answer| {
            answers.push(answer);
            true
        };
        let conversation = super::carry(replicas, kept, request, timeout, held, &mut deliver).await?;
        answers.sort_by_key(|answer: &UnaryAnswer| answer.call);
        Ok((answers, conversation))
    }

    fn messages(answers: &[UnaryAnswer]) -> Vec<&[u8]> {
        answers.iter().map(|answer| &answer.message[..]).collect()
    }

    #[tokio::test]
    async fn one_batch_after_the_other_is_answered_in_order() {
        let service = serve(listen("127.0.0.1:0").await);
        let replicas = replicas(service.address);
        let mut kept = None;
        for round in 0..3 {
            let (answers, conversation) =
                carry(&replicas, kept, batch(ECHO, &["a", "b", "c"]), PATIENCE, &Held::default())
                    .await
                    .unwrap();
            assert_eq!(messages(&answers), [b"a", b"b", b"c"], "round {round}");
            kept = Some(conversation);
        }
        let (answers, _) =
            carry(&replicas, kept, batch("/else", &["a"]), PATIENCE, &Held::default()).await.unwrap();
        assert_eq!(Code::from_i32(answers[0].code), Code::Unimplemented);
    }

    #[tokio::test]
    async fn a_call_does_not_wait_for_a_slower_one_of_its_batch() {
        let service = serve(listen("127.0.0.1:0").await);
        let replicas = replicas(service.address);
        let calls = [call(HOLD, "slow"), call(ECHO, "fast"), call(ECHO, "fast too")].into();
        let request = ConverseRequest { calls, takes_several: true };
        let (answered, mut answers) = mpsc::unbounded_channel();
        let carried = tokio::spawn(async move {
            let mut deliver = |answer: UnaryAnswer| answered.send((answer.call, answer.message)).is_ok();
            super::carry(&replicas, None, request, PATIENCE, &Held::default(), &mut deliver).await.map(drop)
        });
        let mut fast = [answers.recv().await.unwrap(), answers.recv().await.unwrap()];
        fast.sort_unstable();
        assert_eq!(fast, [(1, Bytes::from_static(b"fast")), (2, Bytes::from_static(b"fast too"))]);
        assert!(answers.recv().now_or_never().is_none());
        service.echo.let_go.notify_one();
        assert_eq!(answers.recv().await.unwrap(), (0, Bytes::from_static(b"slow")));
        carried.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_caller_of_an_earlier_version_gets_all_answers_at_once_and_in_order() {
        let service = serve(listen("127.0.0.1:0").await);
        let replicas = replicas(service.address);
        let calls = [call(HOLD, "slow"), call(ECHO, "fast")].into();
        let mut conversation = begin(&replicas).await.unwrap();
        let request = ConverseRequest { calls, takes_several: false };
        conversation.requests.send(request).await.unwrap();
        service.echo.taken.notified().await;
        service.echo.let_go.notify_one();
        let response = conversation.answers.message().await.unwrap().unwrap();
        assert_eq!(messages(&response.answers), [&b"slow"[..], b"fast"]);
    }

    #[tokio::test]
    async fn what_an_ending_service_did_not_take_goes_to_its_successor() {
        let first = serve(listen("127.0.0.1:0").await);
        let replicas = replicas(first.address);
        let (_, mut kept) =
            carry(&replicas, None, batch(ECHO, &["a"]), PATIENCE, &Held::default()).await.unwrap();
        assert!(kept.may_go_on());
        // The service ends while the conversation waits for the next batch: the conversation does
        // not delay the end.
        first.shutdown.cancel();
        first.server.await.unwrap();
        let second = serve(listen(first.address).await);
        let (answers, kept) =
            carry(&replicas, Some(kept), batch(ECHO, &["b"]), PATIENCE, &Held::default()).await.unwrap();
        assert_eq!(messages(&answers), [b"b"]);
        // A client that has not noticed the end sends another batch.
        second.shutdown.cancel();
        let mut kept = kept;
        assert!(!kept.exchange(batch(ECHO, &["c"]), &Held::default(), &mut |_| true).await.unwrap());
    }

    #[tokio::test]
    async fn a_batch_that_was_taken_is_answered_before_the_end() {
        let service = serve(listen("127.0.0.1:0").await);
        let replicas = replicas(service.address);
        let answered = tokio::spawn(async move {
            let (answers, _) =
                carry(&replicas, None, batch(HOLD, &["a"]), PATIENCE, &Held::default()).await.unwrap();
            answers
        });
        service.echo.taken.notified().await;
        service.shutdown.cancel();
        service.echo.let_go.notify_one();
        assert_eq!(messages(&answered.await.unwrap()), [b"a"]);
        service.server.await.unwrap();
    }

    #[tokio::test]
    async fn a_batch_that_is_held_is_answered_after_the_timeout() {
        let service = serve(listen("127.0.0.1:0").await);
        let replicas = replicas(service.address);
        let timeout = Duration::from_secs(1);
        let silent = carry(&replicas, None, batch(HOLD, &["a"]), timeout, &Held::default()).await;
        assert_eq!(silent.err().unwrap().code(), Code::DeadlineExceeded);

        service.echo.restarting.store(true, Ordering::Relaxed);
        let held = Held::default();
        let begun = Instant::now();
        let echo = Arc::clone(&service.echo);
        let let_go = tokio::spawn(async move {
            time::sleep(2 * timeout).await;
            // For the batch that was given up, and for the one that waits.
            echo.let_go.notify_waiters();
            echo.let_go.notify_one();
        });
        let (answers, _) = carry(&replicas, None, batch(HOLD, &["b"]), timeout, &held).await.unwrap();
        assert_eq!(messages(&answers), [b"b"]);
        assert!(begun.elapsed() >= 2 * timeout && held.is_held());
        let_go.await.unwrap();
    }

    #[tokio::test]
    async fn a_batch_whose_answer_is_cut_off_is_not_sent_again() {
        let service = serve(listen("127.0.0.1:0").await);
        let between = listen("127.0.0.1:0").await;
        let replicas = replicas(between.local_addr().unwrap());
        let address = service.address;
        let between = tokio::spawn(async move {
            let (mut near, _) = between.accept().await.unwrap();
            let mut far = TcpStream::connect(address).await.unwrap();
            let _ = copy_bidirectional(&mut near, &mut far).await;
        });
        let (_, kept) =
            carry(&replicas, None, batch(ECHO, &["a"]), PATIENCE, &Held::default()).await.unwrap();
        let cut_off = tokio::spawn(async move {
            carry(&replicas, Some(kept), batch(HOLD, &["b"]), PATIENCE, &Held::default())
                .await
                .err()
                .unwrap()
                .code()
        });
        service.echo.taken.notified().await;
        between.abort();
        assert_eq!(cut_off.await.unwrap(), Code::Unavailable);
    }

    #[tokio::test]
    async fn a_connection_that_ends_of_age_fails_nothing() {
        let settings = Server::builder().max_connection_age(AGE / 4);
        let service = serve_with(listen("127.0.0.1:0").await, settings);
        let replicas = replicas(service.address);
        let (begun, mut kept) = (Instant::now(), None);
        while begun.elapsed() < 4 * AGE {
            let (_, conversation) =
                carry(&replicas, kept, batch(ECHO, &["a"]), PATIENCE, &Held::default()).await.unwrap();
            kept = Some(conversation);
            time::sleep(AGE / 50).await;
        }
    }

    #[tokio::test]
    async fn a_batch_that_is_too_large_is_refused() {
        let service = serve(listen("127.0.0.1:0").await);
        let refused =
            carry(&replicas(service.address), None, batch(ECHO, &["a"; 1025]), PATIENCE, &Held::default())
                .await;
        assert_eq!(refused.err().unwrap().code(), Code::InvalidArgument);
    }
}

//! Answers that have to be taken: a caller who stops reading keeps nobody else from asking.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc::{self, error::SendTimeoutError};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::watch::Answers;

/// How long an answer waits to be taken.
const WAIT: Duration = Duration::from_secs(60);

/// Passes answers on while the caller takes each answer within a minute ([`WAIT`]). When the caller does not, the
/// answers are dropped with everything that they hold, and the stream ends with an error.
pub(crate) fn taken_in_time<T: Send + 'static>(mut answers: Answers<T>) -> Answers<T> {
    let (sender, receiver) = mpsc::channel(1);
    let sending = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(answer) = answers.next().await {
            match sender.send_timeout(answer, WAIT).await {
                Ok(()) => {}
                Err(SendTimeoutError::Timeout(_)) => {
                    return Err(Status::deadline_exceeded("the caller has stopped reading: ask again"));
                }
                // The caller has gone.
                Err(SendTimeoutError::Closed(_)) => break,
            }
        }
        Ok(())
    }));
    Box::pin(stream::unfold((receiver, Some(sending)), |(mut receiver, mut sending)| async move {
        if let Some(answer) = receiver.recv().await {
            return Some((answer, (receiver, sending)));
        }
        let ended = sending.take()?.await;
        let ended = ended.unwrap_or_else(|_| Err(Status::internal("the console cannot answer")));
        Some((Err(ended.err()?), (receiver, sending)))
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time;
    use tonic::Code;

    use super::*;

    /// Ten answers, which hold the value that is returned beside them.
    fn ten() -> (Answers<u32>, Arc<()>) {
        let held = Arc::new(());
        let hold = Arc::clone(&held);
        let answers = stream::iter(0..10).map(move |number| {
            let _held = &hold;
            Ok(number)
        });
        (Box::pin(answers), held)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_caller_gets_every_answer() {
        let (answers, held) = ten();
        let mut answers = taken_in_time(answers);
        for number in 0..10 {
            time::sleep(WAIT - Duration::from_secs(1)).await;
            assert_eq!(answers.next().await.unwrap().unwrap(), number);
        }
        assert!(answers.next().await.is_none());
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_stops_reading_holds_nothing_and_is_told() {
        let (answers, held) = ten();
        let mut answers = taken_in_time(answers);
        assert_eq!(answers.next().await.unwrap().unwrap(), 0);
        time::sleep(WAIT - Duration::from_secs(1)).await;
        assert_eq!(Arc::strong_count(&held), 2);
        time::sleep(Duration::from_secs(2)).await;
        assert_eq!(Arc::strong_count(&held), 1);
        let rest: Vec<_> = answers.collect().await;
        let (last, taken) = rest.split_last().unwrap();
        assert!(taken.len() < 9 && taken.iter().all(Result::is_ok));
        assert_eq!(last.as_ref().unwrap_err().code(), Code::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_has_gone_holds_nothing() {
        let (answers, held) = ten();
        let mut answers = taken_in_time(answers);
        answers.next().await.unwrap().unwrap();
        drop(answers);
        time::sleep(Duration::from_millis(1)).await;
        assert_eq!(Arc::strong_count(&held), 1);
    }
}

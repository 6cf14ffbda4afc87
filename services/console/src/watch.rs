//! Streams that answer at once, and again whenever the answer has changed.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, stream};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// The shortest and the longest pause between asking and asking again whether the answer has
/// changed.
const INTERVAL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// A pause is this many times as long as asking took before, within [`INTERVAL`].
const SHARE: u32 = 20;
/// How long an answer may stay unchanged before the caller gets a beat.
pub(crate) const BEAT: Duration = Duration::from_secs(5);

/// A stream of answers.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Something whose answer is asked for again and again.
pub(crate) trait Watched: Send + 'static {
    /// The message that a caller gets.
    type Answer: Clone + PartialEq + Send;

    /// The answer, or `None` when it is known to be the same as before.
    fn look(&mut self) -> impl Future<Output = Result<Option<Self::Answer>, Status>> + Send;

    /// The answer without content, which shows that the connection is not lost.
    fn beat() -> Self::Answer;
}

/// Asks for the answer again and again, until shutdown or a failure, and streams each answer that
/// differs from the last.
pub(crate) fn watch<W: Watched>(
    watched: W,
    place: OwnedSemaphorePermit,
    shutdown: CancellationToken,
) -> Answers<W::Answer> {
    let now = Instant::now();
    let watch = Watch { watched, shutdown, known: None, look_at: now, beat_at: now + BEAT, _place: place };
    let next = async |mut watch: Watch<W>| {
        let answer = watch.next().await?;
        Ok(answer.map(|answer| (answer, watch)))
    };
    Box::pin(stream::try_unfold(watch, next))
}

struct Watch<W: Watched> {
    watched: W,
    shutdown: CancellationToken,
    known: Option<W::Answer>,
    look_at: Instant,
    beat_at: Instant,
    _place: OwnedSemaphorePermit,
}

impl<W: Watched> Watch<W> {
    /// Waits for the next answer that differs, or for the time of a beat. `None` at shutdown.
    async fn next(&mut self) -> Result<Option<W::Answer>, Status> {
        loop {
            let wait = time::sleep_until(self.look_at);
            if self.shutdown.run_until_cancelled(wait).await.is_none() {
                return Ok(None);
            }
            let began = Instant::now();
            let answer = self.watched.look().await?;
            let now = Instant::now();
            self.look_at = now + (SHARE * (now - began)).clamp(INTERVAL.0, INTERVAL.1);
            if let Some(answer) = answer
                && self.known.as_ref() != Some(&answer)
            {
                self.known = Some(answer.clone());
                self.beat_at = now + BEAT;
                return Ok(Some(answer));
            }
            if now >= self.beat_at {
                self.beat_at = now + BEAT;
                return Ok(Some(W::beat()));
            }
        }
    }
}

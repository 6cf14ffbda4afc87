//! A seed is the same world each time, message by message.

use std::{
    io::{self, Write},
    mem::take,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{Dispatch, Level, dispatcher::with_default};
use tracing_subscriber::{filter::Targets, layer::SubscriberExt as _};

use crate::{shape::Shape, world::play};

/// For how long of its real time a play is compared. h2 forgets a stream that was reset after one second by a clock
/// that no simulation sets, and the order in which the other streams of the connection fail is another then.
const COMPARED: Duration = Duration::from_millis(900);

/// The lines that a simulated network writes while the play is compared.
#[derive(Debug, Clone)]
struct Lines {
    begun: Instant,
    text: Arc<Mutex<Vec<u8>>>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.begun.elapsed() > COMPARED {
            return Ok(bytes.len());
        }
        self.text.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn dispatch(&self) -> Dispatch {
        let writer = self.clone();
        let layer = tracing_subscriber::fmt::layer().without_time().with_ansi(false);
        let network = Targets::new().with_target("turmoil", Level::TRACE);
        tracing_subscriber::registry().with(network).with(layer.with_writer(move || writer.clone())).into()
    }
}

/// Plays a world, and gives each message of its network that is compared: when the message was sent or came, from
/// where, to where. What a message holds is left out, because gRPC tells the real time of day.
fn messages(shape: Shape, seed: u64) -> Vec<String> {
    let lines = Lines { begun: Instant::now(), text: Arc::default() };
    // While there is only one dispatcher, a line of code that another thread meets first is silent for all.
    let (dispatch, _second) = (lines.dispatch(), lines.dispatch());
    with_default(&dispatch, || play(shape, seed));
    let text = String::from_utf8(take(&mut lines.text.lock())).unwrap();
    text.lines().map(|line| line.split(" [").next().unwrap_or(line).to_owned()).collect()
}

#[test]
fn a_seed_is_the_same_world_each_time() {
    for (shape, seed) in (0..4).map(|seed| (Shape::Services, seed)).chain([(Shape::OneProcess, 0)]) {
        let (once, again) = (messages(shape, seed), messages(shape, seed));
        let differ = once.iter().zip(&again).position(|(one, other)| one != other);
        let compared = once.len().min(again.len());
        assert!(compared > 500, "{shape:?} {seed}: {compared} messages");
        assert_eq!(
            differ.map(|line| (line, &once[line], &again[line])),
            None,
            "{shape:?} {seed}: two plays differ"
        );
    }
}

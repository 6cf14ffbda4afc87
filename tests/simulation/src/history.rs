//! What peers asked and what they were told.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;

/// An operation that concerns one user alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Register,
    Unregister,
    Connect,
    Disconnect,
    Publish(u8),
    Delete(u8),
    /// LIST_CONTENT of the user's own list.
    List,
    /// LIST_USERS. What counts of the list is that it has the user who asks.
    Users,
    /// The first look of a LIST_CONTENT: whether the user who asks is connected.
    Look,
    /// The second look of a LIST_CONTENT: what the other user has published.
    ListOf,
}

/// What a peer was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Status(u8),
    Files(BTreeSet<u8>),
}

/// A request of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// A number that no other request of the world has. The peer claims it as its datetime.
    pub(crate) number: usize,
    pub(crate) user: usize,
    pub(crate) asked: Asked,
    pub(crate) gateway: usize,
    /// When the request was sent, by the world's count of such moments.
    pub(crate) sent: usize,
    /// When the peer was told, and what. `None` if the peer was told nothing, or "any other failure":
    /// what was asked may be done or not, now or later.
    pub(crate) told: Option<(usize, Told)>,
    /// Whether the gateway said "any other failure".
    pub(crate) failed: bool,
}

/// All requests of a world. Clones are one history.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(Arc<Mutex<Events>>);

#[derive(Debug, Default)]
struct Events {
    events: Vec<Event>,
    moments: usize,
    /// Which gateway was killed, and when.
    kills: Vec<(usize, usize)>,
}

impl History {
    pub(crate) fn sent(&self, user: usize, asked: Asked, gateway: usize) -> usize {
        let mut events = self.0.lock();
        events.moments += 1;
        let (number, sent) = (events.events.len(), events.moments);
        events.events.push(Event { number, user, asked, gateway, sent, told: None, failed: false });
        number
    }

    pub(crate) fn told(&self, number: usize, told: Told) {
        let mut events = self.0.lock();
        events.moments += 1;
        let moment = events.moments;
        let event = &mut events.events[number];
        if told == Told::Status(event.asked.failure()) {
            event.failed = true;
        } else {
            event.told = Some((moment, told));
        }
    }

    pub(crate) fn killed(&self, gateway: usize) {
        let mut events = self.0.lock();
        events.moments += 1;
        let moment = events.moments;
        events.kills.push((gateway, moment));
    }

    /// Whether a gateway was killed later than a moment.
    pub(crate) fn was_killed_since(&self, gateway: usize, since: usize) -> bool {
        self.0.lock().kills.iter().any(|(killed, moment)| *killed == gateway && *moment > since)
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().events.clone()
    }
}

impl Asked {
    /// The status that says "any other failure" (docs/protocol.md 3).
    fn failure(self) -> u8 {
        match self {
            Self::Register | Self::Unregister => 2,
            Self::Connect | Self::Disconnect | Self::Users => 3,
            Self::Publish(_) | Self::Delete(_) | Self::List | Self::Look | Self::ListOf => 4,
        }
    }
}

//! What peers asked and what they were told, and what was broken meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

/// What a peer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Register,
    Unregister,
    Connect,
    Disconnect,
    Publish(u8),
    Delete(u8),
    /// LIST_USERS.
    Users,
    /// LIST_CONTENT of a user.
    Files(usize),
    /// GET_FILE that names the user who asks, and the owner.
    Owner(usize),
    /// GET_FILE that names the user who asks, as the owner, and a file.
    OwnerOf(u8),
}

/// What a peer was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Status(u8),
    Users(BTreeSet<usize>),
    Files(BTreeSet<u8>),
}

/// A request of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// A number that no other request of the world has. The peer claims the number as its datetime.
    pub(crate) number: usize,
    /// The peer that asked.
    pub(crate) peer: usize,
    pub(crate) user: usize,
    pub(crate) asked: Asked,
    pub(crate) gateway: usize,
    /// When the request was sent, by the world's count of such moments.
    pub(crate) sent: usize,
    /// When the peer was told, and what. `None` if the peer was told nothing, or "any other failure":
    /// what was asked may be done or not, now or later.
    pub(crate) told: Option<(usize, Told)>,
    /// Whether the peer dies before it can have the answer.
    pub(crate) dies: bool,
    /// Whether the gateway said "any other failure".
    pub(crate) failed: bool,
    /// The simulated time at which the request was sent, and at which the peer was told anything.
    pub(crate) between: (Duration, Option<Duration>),
    /// The simulated time at which the peer had an answer, or the connection had ended.
    pub(crate) over: Option<Duration>,
    /// What the record of the request says of the change that was asked for.
    pub(crate) recorded: Option<Recorded>,
}

/// What a record says of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// The change was decided, with this status.
    Decided(u8),
    /// The change was not made, and is not made later.
    NotMade,
}

/// All users as an export has them, and the moments between which the export was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Export {
    pub(crate) began: usize,
    pub(crate) made: usize,
    /// The users who are registered: those who are connected with their files.
    pub(crate) users: BTreeMap<usize, Option<BTreeSet<u8>>>,
}

/// A time in which a gateway, or any, could not store records.
#[derive(Debug, Clone, Copy)]
struct Outage {
    gateway: Option<usize>,
    from: Duration,
    until: Duration,
}

/// A time in which a gateway could not be reached: by one peer, or by any.
#[derive(Debug, Clone, Copy)]
struct Silence {
    gateway: usize,
    peer: Option<usize>,
    from: Duration,
    until: Duration,
}

/// How long a request takes at most whose gateway has time left for the audit, with the way to and fro. A
/// gateway has 2 s for the services and the audit together.
const IN_TIME: Duration = Duration::from_secs(1);

/// All requests of a world. Clones are one history.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(Arc<Mutex<Events>>);

#[derive(Debug, Default)]
struct Events {
    events: Vec<Event>,
    moments: usize,
    /// Which gateway was killed, at which moment and simulated time.
    kills: Vec<(usize, usize, Duration)>,
    outages: Vec<Outage>,
    silences: Vec<Silence>,
    exports: Vec<Export>,
}

impl Events {
    fn moment(&mut self) -> usize {
        self.moments += 1;
        self.moments
    }
}

fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

impl History {
    pub(crate) fn sent(&self, peer: usize, user: usize, asked: Asked, gateway: usize, dies: bool) -> usize {
        let mut events = self.0.lock();
        let (number, sent) = (events.events.len(), events.moment());
        events.events.push(Event {
            number,
            peer,
            user,
            asked,
            gateway,
            sent,
            told: None,
            dies,
            failed: false,
            between: (now(), None),
            over: None,
            recorded: None,
        });
        number
    }

    pub(crate) fn told(&self, number: usize, told: Told) {
        let mut events = self.0.lock();
        let moment = events.moment();
        let event = &mut events.events[number];
        event.between.1 = Some(now());
        if told == Told::Status(event.asked.failure()) {
            event.failed = true;
        } else {
            event.told = Some((moment, told));
        }
    }

    /// Notes that nothing more comes for a request.
    pub(crate) fn over(&self, number: usize) {
        self.0.lock().events[number].over = Some(now());
    }

    /// Notes what the record of a request says.
    pub(crate) fn recorded(&self, number: usize, recorded: Recorded) {
        self.0.lock().events[number].recorded = Some(recorded);
    }

    /// The moment at which an export begins.
    pub(crate) fn export_begins(&self) -> usize {
        self.0.lock().moment()
    }

    pub(crate) fn exported(&self, began: usize, users: BTreeMap<usize, Option<BTreeSet<u8>>>) {
        let mut events = self.0.lock();
        let made = events.moment();
        events.exports.push(Export { began, made, users });
    }

    pub(crate) fn exports(&self) -> Vec<Export> {
        self.0.lock().exports.clone()
    }

    /// Notes that a gateway was killed, and is down until it is started again.
    pub(crate) fn killed(&self, gateway: usize, now: Duration, until: Duration) {
        let mut events = self.0.lock();
        let moment = events.moment();
        events.kills.push((gateway, moment, now));
        events.silences.push(Silence { gateway, peer: None, from: now, until });
    }

    /// Notes that something is wrong with the link between a gateway and a peer.
    pub(crate) fn cut_off(&self, gateway: usize, peer: usize, from: Duration, until: Duration) {
        self.0.lock().silences.push(Silence { gateway, peer: Some(peer), from, until });
    }

    /// Whether a peer could not reach the gateway that it asked, at any time between these two.
    pub(crate) fn was_cut_off(&self, event: &Event, from: Duration, until: Duration) -> bool {
        self.0.lock().silences.iter().any(|silence| {
            silence.gateway == event.gateway
                && silence.peer.is_none_or(|peer| peer == event.peer)
                && silence.from <= until
                && silence.until >= from
        })
    }

    /// Notes that a gateway cannot store records for a while, or that none can.
    pub(crate) fn no_audit(&self, of: Option<usize>, from: Duration, until: Duration) {
        self.0.lock().outages.push(Outage { gateway: of, from, until });
    }

    /// Whether a gateway was killed between two moments.
    pub(crate) fn was_killed(&self, gateway: usize, from: usize, until: usize) -> bool {
        let between = from..=until;
        self.0.lock().kills.iter().any(|(killed, moment, _)| *killed == gateway && between.contains(moment))
    }

    /// Whether the record of an answer may be lost: the audit could not be reached when the peer was
    /// answered, or no time was left to wait for the audit, and the gateway was killed afterwards.
    pub(crate) fn may_be_lost(&self, event: &Event) -> bool {
        let events = self.0.lock();
        let (sent, told) = (event.between.0, event.between.1.unwrap_or(Duration::MAX));
        let killed = events.kills.iter().any(|(gateway, _, at)| *gateway == event.gateway && *at >= sent);
        let unreachable = |outage: &Outage| {
            outage.gateway.is_none_or(|gateway| gateway == event.gateway)
                && outage.from <= told
                && outage.until >= sent
        };
        let no_time = told.saturating_sub(sent) > IN_TIME;
        killed && (no_time || events.outages.iter().any(unreachable))
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().events.clone()
    }
}

impl Asked {
    /// Whether the operation changes the user who asks. The others look at users.
    pub(crate) fn changes_the_user(self) -> bool {
        !matches!(self, Self::Users | Self::Files(_) | Self::Owner(_) | Self::OwnerOf(_))
    }

    /// The status that says "any other failure" (docs/protocol.md 3).
    pub(crate) fn failure(self) -> u8 {
        match self {
            Self::Register | Self::Unregister | Self::Owner(_) | Self::OwnerOf(_) => 2,
            Self::Connect | Self::Disconnect | Self::Users => 3,
            Self::Publish(_) | Self::Delete(_) | Self::Files(_) => 4,
        }
    }
}

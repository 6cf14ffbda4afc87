//! Whether the answers to the requests of one user can be those of one index that does one thing at a time:
//! the search of Wing and Gong, with the states seen remembered.

use std::collections::{BTreeSet, HashSet};

use crate::history::{Asked, Event, Told};

/// A user as the protocol sees one: not registered, registered, or connected with these files.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
enum User {
    #[default]
    Unknown,
    Registered,
    Connected(BTreeSet<u8>),
}

impl User {
    /// What an index tells the user, and what becomes of the user.
    fn ask(&self, asked: Asked) -> (Told, Self) {
        let status = |status| (Told::Status(status), self.clone());
        match (self, asked) {
            (Self::Connected(files), Asked::ListOf) => (Told::Files(files.clone()), self.clone()),
            (_, Asked::ListOf) => (Told::Files(BTreeSet::new()), self.clone()),
            (Self::Connected(_), Asked::Look | Asked::Users) => status(0),
            (Self::Unknown, Asked::Register) => (Told::Status(0), Self::Registered),
            (_, Asked::Register) | (Self::Unknown, _) => status(1),
            (_, Asked::Unregister) => (Told::Status(0), Self::Unknown),
            (Self::Registered, Asked::Connect) => (Told::Status(0), Self::Connected(BTreeSet::new())),
            (Self::Connected(_), Asked::Connect) | (Self::Registered, _) => status(2),
            (Self::Connected(_), Asked::Disconnect) => (Told::Status(0), Self::Registered),
            (Self::Connected(files), Asked::List) => (Told::Files(files.clone()), self.clone()),
            (Self::Connected(files), Asked::Publish(file) | Asked::Delete(file)) => {
                let mut changed = files.clone();
                let done =
                    if asked == Asked::Publish(file) { changed.insert(file) } else { changed.remove(&file) };
                if done { (Told::Status(0), Self::Connected(changed)) } else { status(3) }
            }
        }
    }
}

/// Makes two requests of a LIST_CONTENT whose reply had no files. The gateway looks first whether the user
/// who asks is connected, and then at the list, which is empty if the user has gone meanwhile
/// (docs/protocol.md 4).
fn in_two_looks(event: &Event) -> [Option<Event>; 2] {
    match &event.told {
        Some((moment, Told::Files(files))) if files.is_empty() => {
            let connected = Some((*moment, Told::Status(0)));
            let look = Event { asked: Asked::Look, told: connected, ..event.clone() };
            [Some(look), Some(Event { asked: Asked::ListOf, ..event.clone() })]
        }
        _ => [Some(event.clone()), None],
    }
}

/// Whether the events of one user have an order in which each answer is right. An event without an answer
/// may have happened at any time after it was sent, or never.
pub(crate) fn is_linear(events: &[Event]) -> bool {
    let events: Vec<Event> = events.iter().flat_map(in_two_looks).flatten().collect();
    assert!(events.len() <= 128, "a set of events is 128 bits");
    search(&events, 0, &User::default(), &mut HashSet::new())
}

fn search(events: &[Event], done: u128, user: &User, seen: &mut HashSet<(u128, User)>) -> bool {
    let open = || events.iter().enumerate().filter(|(index, _)| done & (1 << index) == 0);
    let answered = open().filter_map(|(_, event)| event.told.as_ref().map(|(moment, _)| *moment));
    let Some(first) = answered.min() else { return true };
    if !seen.insert((done, user.clone())) {
        return false;
    }
    open().filter(|(_, event)| event.sent < first).any(|(index, event)| {
        let (told, next) = user.ask(event.asked);
        let is_right = event.told.as_ref().is_none_or(|(_, was)| *was == told);
        is_right && search(events, done | (1 << index), &next, seen)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests one after the other, with what was told.
    fn in_turn(told: &[(Asked, Option<u8>)]) -> Vec<Event> {
        let event = |(index, (asked, status)): (usize, &(Asked, Option<u8>))| Event {
            number: index,
            user: 0,
            asked: *asked,
            gateway: 0,
            sent: 2 * index,
            told: status.map(|status| (2 * index + 1, Told::Status(status))),
            failed: false,
            between: Default::default(),
        };
        told.iter().enumerate().map(event).collect()
    }

    #[test]
    fn an_index_that_forgets_is_found_out() {
        use Asked::*;
        assert!(is_linear(&in_turn(&[(Register, Some(0)), (Connect, Some(0)), (Publish(1), Some(0))])));
        assert!(!is_linear(&in_turn(&[(Register, Some(0)), (Register, Some(0))])));
        assert!(!is_linear(&in_turn(&[(Register, Some(0)), (Publish(1), Some(0))])));
        let published = [(Register, Some(0)), (Connect, Some(0)), (Publish(1), Some(0))];
        assert!(!is_linear(&in_turn(&[&published[..], &[(Publish(1), Some(0))]].concat())));
        assert!(!is_linear(&in_turn(&[&published[..], &[(Delete(2), Some(0))]].concat())));
    }

    #[test]
    fn what_was_not_answered_may_have_happened_or_not_and_late() {
        use Asked::*;
        assert!(is_linear(&in_turn(&[(Register, None), (Register, Some(0))])));
        assert!(is_linear(&in_turn(&[(Register, None), (Register, Some(1))])));
        assert!(is_linear(&in_turn(&[(Register, None), (Connect, Some(1)), (Connect, Some(0))])));
        assert!(!is_linear(&in_turn(&[(Register, None), (Connect, Some(0)), (Connect, Some(0))])));
    }

    #[test]
    fn requests_at_one_time_may_have_either_order() {
        use Asked::*;
        let mut events = in_turn(&[(Register, Some(0)), (Connect, Some(2)), (Connect, Some(0))]);
        assert!(!is_linear(&events));
        events[2].sent = events[1].sent;
        assert!(is_linear(&events));
    }
}

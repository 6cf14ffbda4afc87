//! Whether the answers to the requests of one user can be those of one index that does one thing at a time:
//! the search of Wing and Gong, with the states seen remembered.

use std::collections::{BTreeSet, HashSet};

use crate::history::{Asked, Event, Export, Recorded, Told};

/// A user as the protocol sees one: not registered, registered, or connected with these files.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
enum User {
    #[default]
    Unknown,
    Registered,
    Connected(BTreeSet<u8>),
}

/// What is done to a user, or seen of one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    /// What the user asks for, which changes the user.
    Change(Asked),
    /// Somebody asks in the user's name, for which the user must be connected.
    Look,
    /// The user is not registered.
    IsUnknown,
    IsConnected(bool),
    /// Whether the user is connected and has published the file.
    Has(u8, bool),
    /// What the user has published: nothing, if the user is not connected.
    Files(BTreeSet<u8>),
    /// All that an index keeps of the user.
    Is(User),
}

/// A step of one user's history. The user is told a status, or what the act says.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    sent: usize,
    /// When the act had happened: when the answer was there, or at the end of time if there is only a record. `None`
    /// if there is neither, so that the act may have happened or not, at any time after it was asked for.
    told: Option<usize>,
    act: Act,
    status: u8,
}

impl User {
    /// The status that an index gives, and what becomes of the user. What is seen of a user who is otherwise has a
    /// status that nobody is told.
    fn take(&self, act: &Act) -> (u8, Self) {
        let same = |status| (status, self.clone());
        let seen = |is_so: bool| same(if is_so { 0 } else { u8::MAX });
        let files = match self {
            Self::Connected(files) => Some(files),
            _ => None,
        };
        match (self, act) {
            (_, Act::IsUnknown) => seen(*self == Self::Unknown),
            (_, Act::IsConnected(is_connected)) => seen(files.is_some() == *is_connected),
            (_, Act::Has(file, has)) => seen(files.is_some_and(|files| files.contains(file)) == *has),
            (_, Act::Files(listed)) => seen(files.map_or(listed.is_empty(), |files| files == listed)),
            (_, Act::Is(user)) => seen(self == user),
            (Self::Unknown, Act::Look) => same(1),
            (Self::Registered, Act::Look) => same(2),
            (Self::Connected(_), Act::Look) => same(0),
            (_, Act::Change(asked)) => self.change(*asked),
        }
    }

    /// The status of an operation that changes a user, and what becomes of the user.
    fn change(&self, asked: Asked) -> (u8, Self) {
        let same = |status| (status, self.clone());
        match (self, asked) {
            (Self::Unknown, Asked::Register) => (0, Self::Registered),
            (_, Asked::Register) | (Self::Unknown, _) => same(1),
            (_, Asked::Unregister) => (0, Self::Unknown),
            (Self::Registered, Asked::Connect) => (0, Self::Connected(BTreeSet::new())),
            (Self::Connected(_), Asked::Connect) | (Self::Registered, _) => same(2),
            (Self::Connected(_), Asked::Disconnect) => (0, Self::Registered),
            (Self::Connected(files), Asked::Publish(file) | Asked::Delete(file)) => {
                let mut changed = files.clone();
                let done =
                    if asked == Asked::Publish(file) { changed.insert(file) } else { changed.remove(&file) };
                if done { (0, Self::Connected(changed)) } else { same(3) }
            }
            (Self::Connected(_), _) => unreachable!("{asked:?} changes nobody"),
        }
    }
}

/// What a request and its record say of a user.
pub(crate) fn steps(event: &Event, user: usize) -> Vec<Step> {
    if let (true, None, Some(recorded)) = (event.asked.changes_the_user(), &event.told, event.recorded) {
        // Nobody was told, but what the record says is true.
        let step =
            |status| Step { sent: event.sent, told: Some(usize::MAX), act: Act::Change(event.asked), status };
        return match recorded {
            Recorded::Decided(status) if event.user == user => vec![step(status)],
            _ => Vec::new(),
        };
    }
    let (told, what) = event.told.as_ref().map(|(moment, told)| (*moment, told)).unzip();
    let status = match what {
        Some(Told::Status(status)) => *status,
        _ => 0,
    };
    let step = |act, status| Step { sent: event.sent, told, act, status };
    if event.asked.changes_the_user() {
        let of_user = (event.user == user).then(|| step(Act::Change(event.asked), status));
        return of_user.into_iter().collect();
    }
    let Some(what) = what else { return Vec::new() };
    // The last status that each operation has but "any other failure". Who is connected is registered, so nobody is
    // told of the user's own list that its owner is not.
    let last = match event.asked {
        Asked::Files(of) if of != event.user => 3,
        Asked::Files(_) | Asked::Users => 2,
        _ => 1,
    };
    if status > last {
        return if event.user == user { vec![step(Act::Look, u8::MAX)] } else { Vec::new() };
    }
    let mut steps = Vec::new();
    // A status that an operation gives to whoever asks says nothing of others.
    let refused = matches!(event.asked, Asked::Users | Asked::Files(_)) && matches!(status, 1 | 2);
    if event.user == user && matches!(event.asked, Asked::Users | Asked::Files(_)) {
        // A list of users that leaves out the user who asks is told to nobody.
        let is_left_out = matches!(what, Told::Users(users) if !users.contains(&user));
        let status = if is_left_out {
            u8::MAX
        } else if refused {
            status
        } else {
            0
        };
        steps.push(step(Act::Look, status));
    }
    let seen = match (event.asked, what) {
        _ if refused => None,
        (Asked::Users, Told::Users(users)) => Some(Act::IsConnected(users.contains(&user))),
        (Asked::Files(of), Told::Files(files)) if of == user => Some(Act::Files(files.clone())),
        (Asked::Files(of), Told::Status(_)) if of == user => Some(Act::IsUnknown),
        (Asked::Owner(of), Told::Status(status)) if of == user => Some(Act::IsConnected(*status == 0)),
        (Asked::OwnerOf(file), Told::Status(status)) if event.user == user => {
            Some(Act::Has(file, *status == 0))
        }
        _ => None,
    };
    steps.extend(seen.map(|act| step(act, 0)));
    steps
}

/// What an export says of a user.
pub(crate) fn step_of_export(export: &Export, user: usize) -> Step {
    let is = match export.users.get(&user) {
        None => User::Unknown,
        Some(None) => User::Registered,
        Some(Some(files)) => User::Connected(files.clone()),
    };
    Step { sent: export.began, told: Some(export.made), act: Act::Is(is), status: 0 }
}

/// Whether the steps of one user have an order in which each answer is right.
pub(crate) fn is_linear(steps: &[Step]) -> bool {
    assert!(steps.len() <= 128, "a set of steps is 128 bits");
    search(steps, 0, &User::default(), &mut HashSet::new())
}

fn search(steps: &[Step], done: u128, user: &User, seen: &mut HashSet<(u128, User)>) -> bool {
    let open = || steps.iter().enumerate().filter(|(index, _)| done & (1 << index) == 0);
    let Some(first) = open().filter_map(|(_, step)| step.told).min() else { return true };
    if !seen.insert((done, user.clone())) {
        return false;
    }
    open().filter(|(_, step)| step.sent < first).any(|(index, step)| {
        let (status, next) = user.take(&step.act);
        let is_right = step.told.is_none() || status == step.status;
        is_right && search(steps, done | (1 << index), &next, seen)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests of user 0 one after the other, with what was told.
    fn in_turn(told: &[(Asked, Option<Told>)]) -> Vec<Event> {
        let event = |(index, (asked, told)): (usize, &(Asked, Option<Told>))| Event {
            number: index,
            peer: 0,
            user: 0,
            asked: *asked,
            gateway: 0,
            sent: 2 * index,
            told: told.clone().map(|told| (2 * index + 1, told)),
            dies: false,
            failed: false,
            between: Default::default(),
            over: None,
            recorded: None,
        };
        told.iter().enumerate().map(event).collect()
    }

    fn are_right(events: &[Event]) -> bool {
        (0..2).all(|user| is_linear(&events.iter().flat_map(|event| steps(event, user)).collect::<Vec<_>>()))
    }

    fn status(status: u8) -> Option<Told> {
        Some(Told::Status(status))
    }

    fn files<const N: usize>(files: [u8; N]) -> Option<Told> {
        Some(Told::Files(files.into()))
    }

    fn users<const N: usize>(users: [usize; N]) -> Option<Told> {
        Some(Told::Users(users.into()))
    }

    use Asked::*;

    /// What makes user 0 a connected user with file 1.
    fn published() -> Vec<(Asked, Option<Told>)> {
        vec![(Register, status(0)), (Connect, status(0)), (Publish(1), status(0))]
    }

    /// Whether user 0, who has published file 1, may be told this.
    fn may_be_told(asked: Asked, told: Option<Told>) -> bool {
        are_right(&in_turn(&[published(), vec![(asked, told)]].concat()))
    }

    #[test]
    fn an_index_that_forgets_is_found_out() {
        assert!(are_right(&in_turn(&published())));
        assert!(!are_right(&in_turn(&[(Register, status(0)), (Register, status(0))])));
        assert!(!are_right(&in_turn(&[(Register, status(0)), (Publish(1), status(0))])));
        assert!(!may_be_told(Publish(1), status(0)));
        assert!(!may_be_told(Delete(2), status(0)));
    }

    #[test]
    fn what_is_seen_of_a_user_is_judged() {
        for (asked, told, may_be) in [
            (Users, users([0]), true),
            (Users, users([]), false),
            (Users, users([0, 1]), false),
            (Users, status(2), false),
            (Users, status(5), false),
            (Files(0), files([1]), true),
            (Files(0), files([]), false),
            (Files(0), status(3), false),
            (Files(1), status(3), true),
            (Files(1), files([]), true),
            (Files(1), files([1]), false),
            (Owner(1), status(1), true),
            (Owner(1), status(0), false),
            (Owner(1), status(3), false),
            (Owner(0), status(1), false),
            (OwnerOf(1), status(0), true),
            (OwnerOf(1), status(1), false),
            (OwnerOf(2), status(0), false),
        ] {
            assert_eq!(may_be_told(asked, told.clone()), may_be, "{asked:?}: {told:?}");
        }
        let is_away = [(Register, status(0)), (Files(0), files([]))];
        assert!(!are_right(&in_turn(&is_away)), "a user who is not connected has no lists");
    }

    #[test]
    fn an_export_has_each_user_as_at_one_moment() {
        let events = in_turn(&[published(), vec![(Delete(1), status(0)), (Disconnect, status(0))]].concat());
        let is_right = |began: usize, made: usize, user: Option<Option<&[u8]>>| {
            let user = user.map(|files| files.map(|files| files.iter().copied().collect()));
            let export = Export { began, made, users: user.map(|user| (0, user)).into_iter().collect() };
            let of_events = events.iter().flat_map(|event| steps(event, 0));
            is_linear(&of_events.chain([step_of_export(&export, 0)]).collect::<Vec<_>>())
        };
        // Between the answers to PUBLISH, at 5, and to DELETE, at 7.
        assert!(is_right(6, 7, Some(Some(&[1]))));
        assert!(is_right(5, 8, Some(Some(&[]))));
        assert!(!is_right(5, 6, Some(Some(&[]))));
        assert!(!is_right(5, 6, Some(None)));
        assert!(!is_right(5, 6, None));
        assert!(!is_right(10, 11, Some(Some(&[1]))));
        assert!(is_right(10, 11, Some(None)));
    }

    #[test]
    fn what_was_not_answered_may_have_happened_or_not_and_late() {
        assert!(are_right(&in_turn(&[(Register, None), (Register, status(0))])));
        assert!(are_right(&in_turn(&[(Register, None), (Register, status(1))])));
        assert!(are_right(&in_turn(&[(Register, None), (Connect, status(1)), (Connect, status(0))])));
        assert!(!are_right(&in_turn(&[(Register, None), (Connect, status(0)), (Connect, status(0))])));
    }

    #[test]
    fn a_record_of_what_was_not_answered_is_true() {
        let recorded = |asked: &[(Asked, Option<Told>)], status: Recorded| {
            let mut events = in_turn(asked);
            events[0].recorded = Some(status);
            are_right(&events)
        };
        let (done, exists) = (Recorded::Decided(0), Recorded::Decided(1));
        assert!(recorded(&[(Register, None), (Register, status(1))], done));
        assert!(recorded(&[(Register, None), (Register, status(0)), (Unregister, status(0))], done), "late");
        assert!(!recorded(&[(Register, None), (Register, status(0))], done));
        assert!(!recorded(&[(Register, None)], exists), "nobody else has registered the user");
        assert!(!recorded(&[(Register, None), (Register, status(1))], Recorded::NotMade));
        assert!(recorded(&[(Register, None), (Register, status(0))], Recorded::NotMade));
    }

    #[test]
    fn requests_at_one_time_may_have_either_order() {
        let mut events = in_turn(&[(Register, status(0)), (Connect, status(2)), (Connect, status(0))]);
        assert!(!are_right(&events));
        events[2].sent = events[1].sent;
        assert!(are_right(&events));
    }
}

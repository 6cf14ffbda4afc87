//! The judges: what must hold of every history, and of a world that has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use lonja_chassis::service::Backends;
use lonja_proto::{
    audit::{Operation, OperationRecord},
    catalog::ListSessionsRequest,
    console::exported_entry::Entry,
    registry::{FindEndedSessionsRequest, SessionKey},
};
use tokio::time::{self, Instant};

use crate::{
    history::{Asked, Event, History, Recorded, Told},
    linear::{is_linear, step_of_export, steps},
    peer::{Manner, PATIENCE, USERS, ask, datetime, name, number},
    shape::Shape,
};

/// How long a world may take to come to rest once nothing breaks any more. Nothing is sent again in the
/// simulated network, so a connection that was cut is found out by its pings, in 10 s.
const REST: time::Duration = time::Duration::from_secs(30);

/// The time between two looks at a world that is not at rest yet.
const PAUSE: time::Duration = time::Duration::from_millis(500);

/// How long a request takes at most, whatever is broken behind its gateway: the 2 s of a gateway, and half a second for
/// the simulated network and for a request that comes in two pieces.
const DEADLINE: time::Duration = time::Duration::from_millis(2500);

/// How soon every request is answered in a world at rest.
const SOON: time::Duration = time::Duration::from_secs(3);

/// The number of the first request that a judge makes.
const LATE: usize = 50_000;

/// The first user who was not there while things broke.
const FRESH: usize = 90;

/// Waits until a world in which nothing breaks any more serves as it should and has every record.
pub(crate) async fn rest(shape: Shape, backends: &Backends, history: &History) -> anyhow::Result<()> {
    let began = Instant::now();
    for (gateway, host) in shape.gateways().iter().enumerate() {
        serves(gateway, host, began).await.with_context(|| format!("gateway {gateway} at rest"))?;
    }
    while let Err(error) = no_orphans(backends).await {
        ensure!(began.elapsed() < REST, "the catalog at rest: {error:#}");
        time::sleep(PAUSE).await;
    }
    while let Err(error) = audited(shape, history, &export(backends, history).await?) {
        ensure!(began.elapsed() < REST, "the audit at rest: {error:#}");
        time::sleep(PAUSE).await;
    }
    // Nothing may come twice later.
    time::sleep(10 * PAUSE).await;
    audited(shape, history, &export(backends, history).await?)?;
    all_are_served(shape).await
}

/// Whether each user is answered soon, and not with a failure, at each gateway.
async fn all_are_served(shape: Shape) -> anyhow::Result<()> {
    for (number, gateway) in shape.gateways().iter().enumerate() {
        for user in 0..USERS {
            let number = LATE + USERS * number + user;
            // The reply is a status: a peer whose link was slow may be taken for one that reads lists in
            // another form.
            let asked = Asked::Delete(u8::MAX);
            let told = time::timeout(SOON, ask(gateway, user, asked, number, Manner::Whole)).await;
            let told = told.context("no answer at rest")??;
            ensure!(told != Told::Status(asked.failure()), "user {user} is not served at rest");
        }
    }
    Ok(())
}

/// Asks for a fresh user until each step was answered. An attempt without an answer may have been carried
/// out: then the next one is told so.
async fn serves(gateway: usize, host: &str, began: Instant) -> anyhow::Result<()> {
    let user = FRESH + gateway;
    let steps = [
        (Asked::Register, Told::Status(0), Some(Told::Status(1))),
        (Asked::Connect, Told::Status(0), Some(Told::Status(2))),
        (Asked::Publish(1), Told::Status(0), Some(Told::Status(3))),
        (Asked::Files(user), Told::Files(BTreeSet::from([1])), None),
        (Asked::Disconnect, Told::Status(0), Some(Told::Status(2))),
    ];
    for (step, (asked, done, again)) in steps.into_iter().enumerate() {
        let number = LATE + 100 * (gateway + 1) + step;
        for attempt in 0.. {
            let asking = ask(host, user, asked, number, Manner::Whole);
            match time::timeout(PATIENCE, asking).await {
                Ok(Ok(told)) if told == done || (attempt > 0 && Some(&told) == again.as_ref()) => break,
                told => ensure!(began.elapsed() < REST, "{asked:?}: {told:?}"),
            }
            time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// Whether every session that has something published is open.
async fn no_orphans(backends: &Backends) -> anyhow::Result<()> {
    let mut pages = backends.catalog.list_sessions(ListSessionsRequest::default()).await?;
    let mut sessions = Vec::new();
    while let Some(page) = pages.next().await {
        let of_user = |session: lonja_proto::catalog::PublishingSession| SessionKey {
            username: session.username,
            session_id: session.session_id,
        };
        sessions.extend(page?.sessions.into_iter().map(of_user));
    }
    let ended = backends.registry.find_ended_sessions(FindEndedSessionsRequest { sessions }).await?;
    ensure!(ended.ended_session_ids.is_empty(), "ended sessions have files: {:?}", ended.ended_session_ids);
    Ok(())
}

/// Exports the index as `lonja export` does, notes what the export has of the users, and gives its operations.
pub(crate) async fn export(backends: &Backends, history: &History) -> anyhow::Result<Vec<OperationRecord>> {
    let began = history.export_begins();
    let (mut users, mut records) = (BTreeMap::new(), Vec::new());
    let mut last = None;
    let mut pages = lonja_console::export(backends.clone(), ());
    while let Some(page) = pages.next().await {
        for entry in page?.entries.into_iter().filter_map(|entry| entry.entry) {
            match entry {
                Entry::User(user) => {
                    let number = number(&user.username)?;
                    let is_new = users.insert(number, user.session.map(|_| BTreeSet::new())).is_none();
                    ensure!(is_new, "{} is exported twice", user.username);
                    last = Some(number);
                }
                Entry::File(file) => {
                    let files =
                        last.and_then(|user| users.get_mut(&user)?.as_mut()).context("a file of nobody")?;
                    ensure!(files.insert(file.filename.parse()?), "{} is exported twice", file.filename);
                }
                Entry::Operation(record) => records.push(record),
            }
        }
    }
    history.exported(began, users);
    Ok(records)
}

/// Whether all that was seen of each user can be of one index that does one thing at a time.
pub(crate) fn linear(history: &History) -> anyhow::Result<()> {
    let (events, exports) = (history.events(), history.exports());
    for user in 0..USERS {
        let of_events = events.iter().flat_map(|event| steps(event, user));
        let of_exports = exports.iter().map(|export| step_of_export(export, user));
        let steps: Vec<_> = of_events.chain(of_exports).collect();
        ensure!(is_linear(&steps), "no index could have shown user {user} so: {steps:#?}");
    }
    Ok(())
}

/// Whether every request was over within [`DEADLINE`], unless its gateway was down or could not be reached by its peer.
pub(crate) fn in_time(history: &History) -> anyhow::Result<()> {
    for event in history.events().iter().filter(|event| !event.dies) {
        let sent = event.between.0;
        let took = event.over.map(|over| over - sent);
        ensure!(
            took.is_some_and(|took| took <= DEADLINE) || history.was_cut_off(event, sent, sent + DEADLINE),
            "{event:?} took {took:?}"
        );
    }
    Ok(())
}

/// Whether every answer has one record that says the same, in an order that agrees.
fn audited(shape: Shape, history: &History, records: &[OperationRecord]) -> anyhow::Result<()> {
    let events = history.events();
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, record) in records.iter().enumerate() {
        places.entry(&record.claimed_datetime).or_default().push(place);
    }
    let mut found = Vec::new();
    for event in &events {
        let datetime = datetime(event.number);
        let of_event = places.remove(datetime.as_str()).unwrap_or_default();
        ensure!(of_event.len() <= 1, "{event:?} has {} records", of_event.len());
        if let Some(place) = of_event.first() {
            says_the_same(shape, event, &records[*place])?;
            let status = u8::try_from(records[*place].status)?;
            match shape {
                _ if status != event.asked.failure() => {
                    history.recorded(event.number, Recorded::Decided(status));
                }
                Shape::OneProcess => history.recorded(event.number, Recorded::NotMade),
                // Across a network, a change that is recorded as a failure may be made later.
                Shape::Services => {}
            }
            found.push((event, *place));
        } else if event.told.is_some() || event.failed {
            ensure!(history.may_be_lost(event), "{event:?} was answered and has no record");
        }
    }
    let unknown = places.keys().find(|known| **known < datetime(LATE).as_str());
    ensure!(unknown.is_none(), "a record of {unknown:?}, which nobody asked");
    for (event, place) in &found {
        let Some(told) = event.told.as_ref().map(|(moment, _)| *moment) else { continue };
        let before = |(other, _): &&(&Event, usize)| {
            other.gateway == event.gateway
                && other.told.as_ref().is_some_and(|(moment, _)| *moment < event.sent)
                && !history.was_killed(event.gateway, other.sent, told)
        };
        let late = found.iter().filter(before).find(|(_, other)| other > place);
        ensure!(late.is_none(), "{event:?} is recorded before {late:?}, which was answered before");
    }
    Ok(())
}

/// Whether a record says what the peer asked and was told. In one process, the record of a commit that failed and is
/// found after a kill all the same says how the change was decided; [`linear`] holds the record to that.
fn says_the_same(shape: Shape, event: &Event, record: &OperationRecord) -> anyhow::Result<()> {
    let status = match &event.told {
        Some((_, Told::Status(status))) => Some(*status),
        Some((_, Told::Files(_) | Told::Users(_))) => Some(0),
        None if shape == Shape::OneProcess && event.asked.changes_the_user() => None,
        None if event.failed => Some(event.asked.failure()),
        None => None,
    };
    let operation = match event.asked {
        Asked::Register => Operation::Register,
        Asked::Unregister => Operation::Unregister,
        Asked::Connect => Operation::Connect,
        Asked::Disconnect => Operation::Disconnect,
        Asked::Publish(_) => Operation::Publish,
        Asked::Delete(_) => Operation::Delete,
        Asked::Users => Operation::ListUsers,
        Asked::Files(_) => Operation::ListContent,
        Asked::Owner(_) | Asked::OwnerOf(_) => Operation::GetFile,
    };
    ensure!(
        status.is_none_or(|status| record.status == u32::from(status))
            && record.operation() == operation
            && record.username == name(event.user),
        "{event:?} is recorded as {record:?}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_never_over_needs_a_reason() {
        let history = History::default();
        let number = history.sent(0, 0, Asked::Users, 1, false);
        assert!(in_time(&history).is_err());
        let (from, until) = (DEADLINE / 2, DEADLINE);
        history.cut_off(1, 1, from, until);
        history.killed(0, from, until);
        assert!(in_time(&history).is_err(), "another peer, another gateway");
        history.cut_off(1, 0, 2 * DEADLINE, 3 * DEADLINE);
        assert!(in_time(&history).is_err(), "later");
        history.cut_off(1, 0, from, until);
        assert!(in_time(&history).is_ok());
        history.sent(2, 0, Asked::Users, 1, false);
        assert!(in_time(&history).is_err());
        history.killed(1, from, until);
        assert!(in_time(&history).is_ok());
        history.over(number);
        history.sent(0, 0, Asked::Users, 0, true);
        assert!(in_time(&history).is_ok());
    }
}

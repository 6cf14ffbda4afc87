//! The judges: what must hold of every history, and of a world that has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use lonja_chassis::service::Backends;
use lonja_proto::{
    audit::{ListOperationsRequest, Operation, OperationRecord},
    catalog::ListSessionsRequest,
    registry::{FindEndedSessionsRequest, SessionKey},
};
use tokio::time::{self, Instant};

use crate::{
    history::{Asked, Event, History, Told},
    hosts::GATEWAYS,
    linear::is_linear,
    peer::{Manner, PATIENCE, USERS, ask, datetime, name},
};

/// How long a world may take to come to rest once nothing breaks any more. Nothing is sent again in the
/// simulated network, so a connection that was cut is found out by its pings, in 10 s.
const REST: time::Duration = time::Duration::from_secs(30);

/// The time between two looks at a world that is not at rest yet.
const PAUSE: time::Duration = time::Duration::from_millis(500);

/// How soon every request is answered in a world at rest.
const SOON: time::Duration = time::Duration::from_secs(3);

/// The number of the first request that a judge makes.
const LATE: usize = 50_000;

/// The first user who was not there while things broke.
const FRESH: usize = 90;

/// Waits until a world in which nothing breaks any more serves as it should and has every record.
pub(crate) async fn rest(backends: &Backends, history: &History) -> anyhow::Result<()> {
    let began = Instant::now();
    for gateway in 0..GATEWAYS.len() {
        serves(gateway, began).await.with_context(|| format!("gateway {gateway} at rest"))?;
    }
    while let Err(error) = no_orphans(backends).await {
        ensure!(began.elapsed() < REST, "the catalog at rest: {error:#}");
        time::sleep(PAUSE).await;
    }
    while let Err(error) = audited(history, &records(backends).await?) {
        ensure!(began.elapsed() < REST, "the audit at rest: {error:#}");
        time::sleep(PAUSE).await;
    }
    // Nothing may come twice later.
    time::sleep(10 * PAUSE).await;
    audited(history, &records(backends).await?)?;
    all_are_served().await
}

/// Whether each user is answered soon, and not with a failure, at each gateway.
async fn all_are_served() -> anyhow::Result<()> {
    for (number, gateway) in GATEWAYS.iter().enumerate() {
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
async fn serves(gateway: usize, began: Instant) -> anyhow::Result<()> {
    let steps = [
        (Asked::Register, Told::Status(0), Some(Told::Status(1))),
        (Asked::Connect, Told::Status(0), Some(Told::Status(2))),
        (Asked::Publish(1), Told::Status(0), Some(Told::Status(3))),
        (Asked::List, Told::Files(BTreeSet::from([1])), None),
        (Asked::Disconnect, Told::Status(0), Some(Told::Status(2))),
    ];
    for (step, (asked, done, again)) in steps.into_iter().enumerate() {
        let number = LATE + 100 * (gateway + 1) + step;
        for attempt in 0.. {
            let asking = ask(GATEWAYS[gateway], FRESH + gateway, asked, number, Manner::Whole);
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

async fn records(backends: &Backends) -> anyhow::Result<Vec<OperationRecord>> {
    let mut pages = backends.audit.list_operations(ListOperationsRequest::default()).await?;
    let mut records = Vec::new();
    while let Some(page) = pages.next().await {
        records.extend(page?.records);
    }
    Ok(records)
}

/// Whether the answers to each user can be those of one index that does one thing at a time.
pub(crate) fn linear(history: &History) -> anyhow::Result<()> {
    let events = history.events();
    let users: BTreeSet<usize> = events.iter().map(|event| event.user).collect();
    for user in users {
        let of_user: Vec<Event> = events.iter().filter(|event| event.user == user).cloned().collect();
        ensure!(is_linear(&of_user), "no index could have answered user {user} so: {of_user:#?}");
    }
    Ok(())
}

/// Whether every answer has one record that says the same, in an order that agrees.
fn audited(history: &History, records: &[OperationRecord]) -> anyhow::Result<()> {
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
            says_the_same(event, &records[*place])?;
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

/// Whether a record says what the peer asked and was told.
fn says_the_same(event: &Event, record: &OperationRecord) -> anyhow::Result<()> {
    let status = match &event.told {
        Some((_, Told::Status(status))) => Some(*status),
        Some((_, Told::Files(_))) => Some(0),
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
        Asked::List | Asked::Look | Asked::ListOf => Operation::ListContent,
    };
    ensure!(
        status.is_none_or(|status| record.status == u32::from(status))
            && record.operation() == operation
            && record.username == name(event.user),
        "{event:?} is recorded as {record:?}"
    );
    Ok(())
}

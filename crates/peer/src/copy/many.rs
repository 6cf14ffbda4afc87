//! One file from several peers at one time. Each fetches a segment after another into
//! memory; the segments are appended in order, so that what is there can always be
//! resumed. Whoever has nothing else to do fetches the segment that all wait for as well:
//! one slow peer does not hold the others up.

use std::{collections::BTreeMap, io, sync::mpsc, thread};

use lonja_wire::get_part::Head;
use parking_lot::{Condvar, Mutex};

use super::{Copied, CopyError, Job, copied, is_same};
use crate::{
    fetch::{FetchError, Source},
    partial::Verified,
};

/// Bytes of a segment.
const SEGMENT: u64 = 4 << 20;
/// Segments for each peer that may be fetched before those in front of them.
const AHEAD: u64 = 3;
/// Failures of a peer before it is asked no more.
const FAILURES: u32 = 3;

/// Copies from all of them.
pub(super) fn copy(job: &Job<'_>, sources: &[Source]) -> Result<Copied, CopyError> {
    let (head, sources) = those_that_agree(job, sources)?;
    let mut copy = job.target.resume(&head)?;
    let resumed = copy.length();
    job.progress.begin(Some(head.size), copy.length());
    append_all(job, &sources, &head, &mut copy)?;
    if job.is_right(&copy)? {
        copy.finish(job.target)?;
        return Ok(copied(&head, resumed));
    }
    // One of them, or what was left before, is at fault: each is asked alone.
    copy.discard();
    let mut last = None;
    for source in &sources {
        match job.verified_or_not(source) {
            Ok(copied) => return Ok(copied),
            Err(error @ CopyError::Fetch(FetchError::Interrupted)) => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| CopyError::Wrong(names(&sources))))
}

/// What the file is, and the peers that answer. All that do must say the same.
fn those_that_agree(job: &Job<'_>, sources: &[Source]) -> Result<(Head, Vec<Source>), CopyError> {
    let mut agreed: Option<(Head, Vec<Source>)> = None;
    let mut last = None;
    for source in sources {
        let head = match source.head(job.filename, job.interrupt) {
            Ok(Some(head)) => head,
            Ok(None) => return Err(CopyError::Original(source.user.clone())),
            Err(FetchError::Interrupted) => return Err(FetchError::Interrupted.into()),
            Err(error) => {
                complain!("lonja: {error}; copying from the others");
                last = Some(error);
                continue;
            }
        };
        match &mut agreed {
            None => agreed = Some((head, vec![source.clone()])),
            Some((first, sources)) if is_same(first, &head) => sources.push(source.clone()),
            Some((_, sources)) => return Err(CopyError::Different(source.user.clone(), names(sources))),
        }
    }
    agreed.ok_or_else(|| match last {
        Some(error) => error.into(),
        None => CopyError::Wrong(String::new()),
    })
}

fn names(sources: &[Source]) -> String {
    sources.iter().map(|source| source.user.as_str()).collect::<Vec<_>>().join(", ")
}

/// Which segments are to be fetched.
struct Plan {
    state: Mutex<State>,
    changed: Condvar,
    segments: u64,
}

struct State {
    /// The segment that is appended next.
    appended: u64,
    /// The segment that nobody has been given yet.
    next: u64,
    /// How many fetch each segment that is not there yet.
    fetching: BTreeMap<u64, u32>,
    /// Nothing is to be fetched any more.
    over: bool,
}

impl Plan {
    fn new(segments: u64) -> Self {
        let state = State { appended: 0, next: 0, fetching: BTreeMap::new(), over: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), segments }
    }

    /// A segment to fetch: the next one, or else the first that only others fetch. `None`
    /// at the end.
    fn take(&self, mine: Option<u64>, ahead: u64) -> Option<u64> {
        let mut state = self.state.lock();
        loop {
            if state.over || state.appended >= self.segments {
                return None;
            }
            let unfetched = state.fetching.iter().find(|(_, fetchers)| **fetchers == 0);
            let again = unfetched.map(|(segment, _)| *segment);
            let segment = again
                .or_else(|| (state.next < self.segments.min(state.appended + ahead)).then_some(state.next));
            let segment = segment.or_else(|| {
                let first = state.fetching.iter().next();
                first
                    .filter(|(segment, fetchers)| **fetchers < 2 && mine != Some(**segment))
                    .map(|(segment, _)| *segment)
            });
            if let Some(segment) = segment {
                state.next = state.next.max(segment + 1);
                *state.fetching.entry(segment).or_default() += 1;
                return Some(segment);
            }
            self.changed.wait(&mut state);
        }
    }

    /// A segment did not come: others may fetch it.
    fn give_back(&self, segment: u64) {
        let mut state = self.state.lock();
        if let Some(fetchers) = state.fetching.get_mut(&segment) {
            *fetchers = fetchers.saturating_sub(1);
        }
        self.changed.notify_all();
    }

    /// A segment has come.
    fn has_come(&self, segment: u64) {
        self.state.lock().fetching.remove(&segment);
        self.changed.notify_all();
    }

    fn has_appended(&self, appended: u64) {
        self.state.lock().appended = appended;
        self.changed.notify_all();
    }

    fn end(&self) {
        self.state.lock().over = true;
        self.changed.notify_all();
    }
}

fn append_all(job: &Job<'_>, sources: &[Source], head: &Head, copy: &mut Verified) -> Result<(), CopyError> {
    let start = copy.length();
    let plan = Plan::new((head.size - start).div_ceil(SEGMENT));
    let ahead = AHEAD * sources.len() as u64;
    let (fetched, arrivals) = mpsc::sync_channel(sources.len());
    // Whoever is still at a segment that has come from another is not waited for.
    let over = job.interrupt.child();
    thread::scope(|scope| {
        for source in sources {
            let fetched = fetched.clone();
            let (plan, job) = (&plan, Job { interrupt: &over, ..*job });
            scope.spawn(move || fetch_until_the_end(&job, source, head, start, (plan, ahead), &fetched));
        }
        drop(fetched);
        let result = append_in_order(job, &plan, copy, &arrivals);
        plan.end();
        over.raise();
        // Whoever has one more to hand over finds nobody there.
        drop(arrivals);
        result
    })
}

type Arrival = Result<(u64, Vec<u8>), FetchError>;

fn append_in_order(
    job: &Job<'_>,
    plan: &Plan,
    copy: &mut Verified,
    arrivals: &mpsc::Receiver<Arrival>,
) -> Result<(), CopyError> {
    let mut early = BTreeMap::new();
    let mut appended = 0;
    let mut last = None;
    while appended < plan.segments {
        match arrivals.recv() {
            Ok(Ok((segment, bytes))) if segment >= appended => {
                plan.has_come(segment);
                early.insert(segment, bytes);
            }
            // It came twice.
            Ok(Ok(_)) => {}
            Ok(Err(error)) => last = Some(error),
            // Every peer has failed too often.
            Err(mpsc::RecvError) => {
                return Err(last.unwrap_or(FetchError::Interrupted).into());
            }
        }
        while let Some(bytes) = early.remove(&appended) {
            copy.append(&bytes).map_err(|error| job.cannot_write(error))?;
            job.progress.add(bytes.len() as u64);
            appended += 1;
            plan.has_appended(appended);
        }
    }
    Ok(())
}

fn fetch_until_the_end(
    job: &Job<'_>,
    source: &Source,
    head: &Head,
    start: u64,
    (plan, ahead): (&Plan, u64),
    fetched: &mpsc::SyncSender<Arrival>,
) {
    let mut failures = 0;
    let mut mine = None;
    while failures < FAILURES
        && let Some(segment) = plan.take(mine, ahead)
    {
        let arrival = fetch(job, source, head, start + segment * SEGMENT).map(|bytes| (segment, bytes));
        mine = Some(segment);
        if let Err(error) = &arrival {
            plan.give_back(segment);
            failures = if matches!(error, FetchError::Interrupted) { FAILURES } else { failures + 1 };
        }
        if fetched.send(arrival).is_err() {
            return;
        }
    }
}

fn fetch(job: &Job<'_>, source: &Source, head: &Head, offset: u64) -> Result<Vec<u8>, FetchError> {
    let length = SEGMENT.min(head.size - offset);
    let (now, mut incoming) = source.part(job.filename, offset, length, job.interrupt)?;
    let cut = |what| FetchError::Io(source.user.clone(), io::Error::other(what));
    if !is_same(&now, head) {
        return Err(cut("its file is another one now"));
    }
    // At most SEGMENT.
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    let mut read = 0;
    while read < bytes.len() {
        match incoming.read(&mut bytes[read..])? {
            0 => return Err(cut("it closed the connection too early")),
            more => read += more,
        }
    }
    Ok(bytes)
}

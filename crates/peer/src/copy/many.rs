//! Copies one file from several peers at one time.
//!
//! A thread for each peer fetches one segment after another into memory. The segments are appended
//! in order, so that what is there can always be resumed. A thread that has nothing else to fetch
//! also fetches the segment that all wait for, so that one slow peer does not hold the others up.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, mpsc},
    thread,
};

use lonja_wire::get_part::{BLOCK, Head};
use parking_lot::{Condvar, Mutex};

use super::{Copied, CopyError, Job, copied, is_same};
use crate::{
    fetch::{Described, FetchError, Source},
    hash::Tree,
    partial::Verified,
};

/// The size of a segment, in bytes: a block, so that each segment can be checked by itself.
const SEGMENT: u64 = BLOCK;
/// How many segments for each peer may be fetched ahead, counted from the segment that is appended
/// next.
const AHEAD: u64 = 3;
/// How many failures a peer may have before it is asked no more.
const FAILURES: u32 = 3;

/// Copies a file from all of the peers that answer.
pub(super) fn copy(job: &Job<'_>, sources: &[Source]) -> Result<Copied, CopyError> {
    let (Described { head, tree }, sources) = those_that_agree(job, sources)?;
    let mut copy = job.target.resume(&head, tree.clone())?;
    job.progress.begin(Some(head.size), copy.length());
    let kept = copy.keep_right_blocks(job.interrupt);
    kept.map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => FetchError::Interrupted.into(),
        _ => job.cannot_write(error),
    })?;
    let resumed = copy.length();
    job.progress.begin(Some(head.size), resumed);
    append_all(job, &sources, &File { head, tree }, &mut copy)?;
    if job.is_right(&copy)? {
        copy.finish(job.target)?;
        return Ok(copied(&head, resumed));
    }
    // Bytes of one peer, or of an earlier attempt, are wrong, and nobody has said what the blocks are: each
    // peer is asked alone.
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

/// Asks each peer what the file is. Gives what the file is and the peers that answered, which must
/// all have given the same answer; one of them says what the blocks are, if any can.
fn those_that_agree(job: &Job<'_>, sources: &[Source]) -> Result<(Described, Vec<Source>), CopyError> {
    let mut agreed: Option<(Described, Vec<Source>)> = None;
    let mut last = None;
    for source in sources {
        let wants_values = agreed.as_ref().is_none_or(|(described, _)| described.tree.is_none());
        let described = match source.head(job.filename, wants_values, job.interrupt) {
            Ok(Some(described)) => described,
            Ok(None) => return Err(CopyError::Original(source.user.clone())),
            Err(FetchError::Interrupted) => return Err(FetchError::Interrupted.into()),
            Err(error) => {
                complain!("lonja: {error}; trying the other users");
                last = Some(error);
                continue;
            }
        };
        match &mut agreed {
            None => agreed = Some((described, vec![source.clone()])),
            Some((first, sources)) if is_same(&first.head, &described.head) => {
                first.tree = first.tree.take().or(described.tree);
                sources.push(source.clone());
            }
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

/// The segments to fetch, for the threads to share out among themselves.
struct Plan {
    state: Mutex<State>,
    changed: Condvar,
    segments: u64,
}

struct State {
    /// The segment that is appended next.
    appended: u64,
    /// The first segment that no thread has been given yet.
    next: u64,
    /// The number of threads that fetch each segment that was given out and is not there yet.
    fetching: BTreeMap<u64, u32>,
    /// Whether nothing is to be fetched any more.
    over: bool,
}

impl Plan {
    fn new(segments: u64) -> Self {
        let state = State { appended: 0, next: 0, fetching: BTreeMap::new(), over: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), segments }
    }

    /// Waits for a segment to fetch: one that was given back, or the next one, or else the first
    /// that is not there and that only one other thread fetches. `None` at the end.
    ///
    /// `mine` is the segment that the thread has fetched last; `ahead` bounds how far the next one
    /// may be ahead.
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

    /// Gives back a segment that did not come, so that it can be fetched again.
    fn give_back(&self, segment: u64) {
        let mut state = self.state.lock();
        if let Some(fetchers) = state.fetching.get_mut(&segment) {
            *fetchers = fetchers.saturating_sub(1);
        }
        self.changed.notify_all();
    }

    /// Notes that a segment has come.
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

/// The file that all peers have.
struct File {
    head: Head,
    /// What each block is, if that is known.
    tree: Option<Arc<Tree>>,
}

fn append_all(job: &Job<'_>, sources: &[Source], file: &File, copy: &mut Verified) -> Result<(), CopyError> {
    let start = copy.length();
    let plan = Plan::new((file.head.size - start).div_ceil(SEGMENT));
    let ahead = AHEAD * sources.len() as u64;
    let (fetched, arrivals) = mpsc::sync_channel(sources.len());
    // A thread that still fetches a segment that has come from another peer is interrupted at the
    // end.
    let over = job.interrupt.child();
    thread::scope(|scope| {
        for source in sources {
            let fetched = fetched.clone();
            let (plan, job) = (&plan, Job { interrupt: &over, ..*job });
            scope.spawn(move || fetch_until_the_end(&job, source, file, start, (plan, ahead), &fetched));
        }
        drop(fetched);
        let result = append_in_order(job, &plan, copy, &arrivals);
        plan.end();
        over.raise();
        // A thread that has one more segment to hand over must not wait for a receiver.
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
            // The segment came twice.
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
    file: &File,
    start: u64,
    (plan, ahead): (&Plan, u64),
    fetched: &mpsc::SyncSender<Arrival>,
) {
    let mut failures = 0;
    let mut mine = None;
    while failures < FAILURES
        && let Some(segment) = plan.take(mine, ahead)
    {
        let arrival = fetch(job, source, file, start + segment * SEGMENT).map(|bytes| (segment, bytes));
        mine = Some(segment);
        if let Err(error) = &arrival {
            plan.give_back(segment);
            failures = match error {
                FetchError::Interrupted => FAILURES,
                FetchError::Wrong(_) => {
                    complain!("lonja: {error}, and is asked no more");
                    FAILURES
                }
                _ => failures + 1,
            };
        }
        if fetched.send(arrival).is_err() {
            return;
        }
    }
}

/// Fetches a segment, and checks it if it can be checked.
fn fetch(job: &Job<'_>, source: &Source, file: &File, offset: u64) -> Result<Vec<u8>, FetchError> {
    let File { head, tree } = file;
    let length = SEGMENT.min(head.size - offset);
    let (now, mut incoming) = source.part(job.filename, offset, length, job.interrupt)?;
    if !is_same(&now, head) {
        return Err(FetchError::Changed(source.user.clone()));
    }
    // The length is at most `SEGMENT`.
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    let mut read = 0;
    while read < bytes.len() {
        match incoming.read(&mut bytes[read..])? {
            0 => return Err(source.cut()),
            more => read += more,
        }
    }
    match tree {
        Some(tree) if !tree.holds(offset / BLOCK, &bytes) => {
            // The file may have changed while it was sent.
            let (now, _) = source.part(job.filename, 0, 0, job.interrupt)?;
            let changed = !is_same(&now, head);
            let user = source.user.clone();
            Err(if changed { FetchError::Changed(user) } else { FetchError::Wrong(user) })
        }
        _ => Ok(bytes),
    }
}

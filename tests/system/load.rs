//! The load for tests that kill and pause parts of the index: peers that write, and a check that
//! nothing of what was acknowledged is lost.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use lonja_proto::{
    audit::{
        ListOperationsRequest, Operation, OperationFilter, OperationRecord,
        audit_service_client::AuditServiceClient,
    },
    console::{self, console_service_client::ConsoleServiceClient},
};
use lonja_rpc::{Channel, Dial, Names};
use lonja_wire::{Command, Encoding, Outcome};
use tokio_stream::StreamExt as _;
use tonic::Status;

use crate::{eventually, wire};

pub(crate) type Key = (String, Operation, String);

/// The operations that were answered with success, in order, and the times of all answers.
#[derive(Default)]
pub(crate) struct Acknowledged {
    operations: Mutex<Vec<Key>>,
    /// How long each answer took, whether it was a success or not.
    times: Mutex<Vec<Duration>>,
    /// The operations that were answered with "any other failure", or not at all.
    failed: Mutex<Vec<String>>,
    /// How long each writer pauses behind an answer.
    pause: Duration,
}

impl Acknowledged {
    /// Nothing yet, of writers that pause for so long behind each answer.
    fn paced(pause: Duration) -> Self {
        Self { pause, ..Self::default() }
    }

    /// Sends a request, notes the time and a success, and says whether it was a success.
    fn ask(&self, peers: SocketAddr, name: &str, operation: Operation, command: Command, file: &str) -> bool {
        let started = Instant::now();
        let failure = command.operation().status(Outcome::Failed);
        let answer = wire::ask_or_why(peers, name, command);
        self.times.lock().unwrap().push(started.elapsed());
        thread::sleep(self.pause);
        if answer.as_ref().map_or(true, |status| *status == failure) {
            let what = format!("{operation:?} of {name}: {answer:?} after {:?}", started.elapsed());
            self.failed.lock().unwrap().push(what);
        }
        if answer == Ok(0) {
            self.operations.lock().unwrap().push((name.to_owned(), operation, file.to_owned()));
        }
        answer == Ok(0)
    }

    /// How many operations were sent.
    pub(crate) fn sent(&self) -> usize {
        self.times.lock().unwrap().len()
    }

    /// The operations that were answered with "any other failure", or not at all.
    pub(crate) fn failed(&self) -> Vec<String> {
        self.failed.lock().unwrap().clone()
    }

    /// The times of the answers that took at least `limit`.
    pub(crate) fn later_than(&self, limit: Duration) -> Vec<Duration> {
        self.times.lock().unwrap().iter().filter(|time| **time >= limit).copied().collect()
    }

    fn of(&self, wanted: Operation) -> Vec<(String, String)> {
        let operations = self.operations.lock().unwrap();
        let chosen = operations.iter().filter(|(_, operation, _)| *operation == wanted);
        chosen.map(|(name, _, file)| (name.clone(), file.clone())).collect()
    }
}

/// Writers that use the index until the load is stopped or dropped.
pub(crate) struct Load {
    pub(crate) done: Arc<Acknowledged>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts writers, each at one of the gateways, which pause for so long behind each answer.
    pub(crate) fn start(gateways: &[SocketAddr], writers: usize, pause: Duration) -> Self {
        let (done, stop) = (Arc::new(Acknowledged::paced(pause)), Arc::new(AtomicBool::new(false)));
        let writers = (0..writers).map(|writer| {
            let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
            let peers = gateways[writer % gateways.len()];
            thread::spawn(move || write(peers, &format!("w{writer}"), &stop, &done))
        });
        Self { writers: writers.collect(), done, stop }
    }

    /// Stops the writers, and gives what was acknowledged.
    pub(crate) fn stop(mut self) -> Arc<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        self.writers.drain(..).for_each(|writer| writer.join().unwrap());
        Arc::clone(&self.done)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A test that fails has its own reason.
        self.writers.drain(..).for_each(|writer| drop(writer.join()));
    }
}

/// Registers and connects one user after the other, until `stop` is set. Each publishes three
/// files and asks for the lists, and every third then disconnects.
fn write(peers: SocketAddr, prefix: &str, stop: &AtomicBool, done: &Acknowledged) {
    let port = std::num::NonZeroU16::new(50_085).unwrap().into();
    for user in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("{prefix}-{user}");
        if !done.ask(peers, &name, Operation::Register, Command::Register, "")
            || !done.ask(peers, &name, Operation::Connect, Command::Connect(port), "")
        {
            // While nothing listens, each attempt fails at once.
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        for file in ["a", "b", "c"] {
            done.ask(peers, &name, Operation::Publish, wire::publish_command(file), file);
        }
        let own = Command::ListContent(Some(name.parse().unwrap()));
        done.ask(peers, &name, Operation::ListContent, own, &name);
        if user % 8 == 0 {
            done.ask(peers, &name, Operation::ListUsers, Command::ListUsers, "");
        }
        if user % 3 == 0 {
            done.ask(peers, &name, Operation::Disconnect, Command::Disconnect, "");
        }
    }
}

/// Counts the records of each successful operation in the audit at this address, or in the audit behind the
/// console at this address; `None` if not all records came. Of a username, only that user's records count.
pub(crate) fn audited(address: &str, username: &str) -> Option<HashMap<Key, usize>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let filter = OperationFilter { username: username.to_owned(), ..OperationFilter::default() };
    let records = runtime.block_on(async {
        match of_audit(address, filter.clone()).await {
            Ok(records) => Ok(records),
            Err(_) => of_console(address, filter).await,
        }
    });
    let mut found = HashMap::new();
    for record in records.ok()?.into_iter().flatten().filter(|record| record.status == 0) {
        let operation = record.operation();
        *found.entry((record.username, operation, record.subject)).or_default() += 1;
    }
    Some(found)
}

fn channel(address: &str) -> Channel {
    Channel::remote(address, &Names::new(None).unwrap(), Dial::Plain).unwrap()
}

/// Records in the pages in which they came.
type Pages = Result<Vec<Vec<OperationRecord>>, Status>;

async fn of_audit(address: &str, filter: OperationFilter) -> Pages {
    let request = ListOperationsRequest { filter: Some(filter), ..Default::default() };
    let pages = AuditServiceClient::new(channel(address)).list_operations(request).await?.into_inner();
    pages.map(|page| Ok(page?.records)).collect().await
}

async fn of_console(address: &str, filter: OperationFilter) -> Pages {
    let request = console::ListOperationsRequest { filter: Some(filter) };
    let pages = ConsoleServiceClient::new(channel(address)).list_operations(request).await?.into_inner();
    pages.map(|page| Ok(page?.records)).collect().await
}

/// Waits until this gateway answers peers only after the audit has stored their records. Before
/// that, records wait in the gateway's memory, and would be lost with the gateway.
pub(crate) fn until_recorded(peers: SocketAddr, audit: &str, name: &str) {
    // The first record may be stored before the gateway knows that it is. The second request comes
    // after that, and its record travels in the next batch, with all that was answered in between.
    for turn in ["first", "second"] {
        let mut names = (0..).map(|attempt| format!("{name}-{turn}{attempt}"));
        let name = eventually("a peer is registered", || {
            names.next().filter(|name| wire::try_ask(peers, name, Command::Register) == Some(0))
        });
        let key = (name.clone(), Operation::Register, String::new());
        eventually("the audit is up to date", || audited(audit, &name)?.contains_key(&key).then_some(()));
    }
}

/// Asserts that everything that was answered with success is in the index, and once in the audit.
pub(crate) fn verify(peers: SocketAddr, audit: &str, done: &Acknowledged) {
    let registered = done.of(Operation::Register);
    assert!(registered.len() > 50, "the load got somewhere: {}", registered.len());
    until_recorded(peers, audit, "verified");
    let audited = eventually("the audit gives its records", || audited(audit, ""));
    let operations = done.operations.lock().unwrap();
    let is_wrong = |(_, key): &(usize, &Key)| audited.get(*key) != Some(&1);
    let wrong: Vec<_> = operations.iter().enumerate().filter(is_wrong).collect();
    let wrong: Vec<_> = wrong.iter().map(|(at, key)| (at, key, audited.get(*key))).collect();
    assert!(wrong.is_empty(), "of {} these are not there once: {wrong:?}", operations.len());
    drop(operations);

    // What follows asks for lists, which the audit records too.
    at_once(&registered, |(name, _)| assert_eq!(wire::register_again(peers, name), 1, "{name} is lost"));
    let ended: HashSet<_> = done.of(Operation::Disconnect).into_iter().map(|(name, _)| name).collect();
    let connected: HashSet<_> = done
        .of(Operation::Connect)
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| !ended.contains(name))
        .collect();
    // A disconnect whose answer was lost may have ended the session all the same, and every third
    // user disconnects.
    let doubtful = |name: &str| name.rsplit('-').next().unwrap().parse::<usize>().unwrap() % 3 == 0;
    let watcher = "verifier";
    let _ = (wire::register_again(peers, watcher), wire::connect_as(peers, watcher, 50_085));
    let users = wire::list_users(peers, watcher, Encoding::Padded).unwrap();
    let mut online: Vec<_> = users.iter().map(|user| user.username.to_string()).collect();
    online.sort();
    assert!(online.windows(2).all(|pair| pair[0] != pair[1]), "nobody twice");
    for name in connected.iter().filter(|name| !doubtful(name)) {
        assert!(online.binary_search(name).is_ok(), "the session of {name} is lost");
    }
    assert!(ended.iter().all(|name| online.binary_search(name).is_err()), "a session that ended is back");
    let mut published: HashMap<String, Vec<String>> = HashMap::new();
    for (name, file) in done.of(Operation::Publish) {
        published.entry(name).or_default().push(file);
    }
    let published = published.into_iter().filter(|(name, _)| connected.contains(name) && !doubtful(name));
    at_once(&published.collect::<Vec<_>>(), |(name, files)| {
        let listed = wire::list_content(peers, watcher, name, Encoding::Padded).unwrap();
        for file in files {
            let times = listed.iter().filter(|listed| listed.filename.to_string() == *file).count();
            assert_eq!(times, 1, "{file} of {name}");
        }
    });
}

/// Checks each of `all`, several at one time.
fn at_once<T: Sync>(all: &[T], check: impl Fn(&T) + Sync) {
    thread::scope(|scope| {
        for part in all.chunks(all.len().div_ceil(8).max(1)) {
            scope.spawn(|| part.iter().for_each(&check));
        }
    });
}

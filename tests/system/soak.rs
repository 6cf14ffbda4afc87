//! Hours of trouble for real processes. `make soak` runs it, and it leaves a page that says what was done and
//! that nothing was lost.

use std::{
    collections::BTreeMap,
    env, fs,
    fs::File,
    io::{ErrorKind, Write as _},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command as Process,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lonja_testing::RedisServer;
use lonja_wire::Command;
use tempfile::TempDir;

use crate::{
    cluster::{Cluster, Service},
    eventually,
    load::{Load, until_recorded, verify},
    process, repository, wire,
};

/// How long a round takes at most, each with a fresh index. Longer rounds list ever more users.
const ROUND: Duration = Duration::from_secs(300);
/// How many rounds a soak has at least, so that a short one has each kind of index.
const ROUNDS: u32 = 6;
const WRITERS: usize = 8;
/// More bytes than the small disk has.
const SMALL: u64 = 1 << 30;
/// How long a writer pauses behind an answer.
const PAUSE: Duration = Duration::from_millis(10);
/// The longest that a peer may wait for an answer: the 10 s that the gateway holds a request while Redis is
/// being restarted, and 5 s that a pause or a busy machine may add.
const DEADLINE: Duration = Duration::from_secs(15);

/// Where the trouble comes from, apart from signals.
struct Place {
    random: fastrand::Rng,
    /// A small disk that nothing else uses.
    disk: PathBuf,
    /// The file that holds how far the clock of the processes is from the time of day.
    clock: PathBuf,
    /// The library that gives the processes this clock.
    faketime: PathBuf,
}

impl Place {
    fn environment(&self) -> Vec<(String, String)> {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        [
            ("LD_PRELOAD", path(&self.faketime)),
            ("FAKETIME_TIMESTAMP_FILE", path(&self.clock)),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("LONJA_MAX_AUDIT_RECORDS", "100000000".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn moment(&mut self, milliseconds: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.u64(milliseconds))
    }

    fn data(&self) -> TempDir {
        TempDir::new_in(&self.disk).unwrap()
    }

    fn step_the_clock(&mut self) {
        let seconds = self.random.i32(-7200..7200);
        // The processes read the file at any time, so it changes as a whole.
        let next = self.clock.with_extension("next");
        fs::write(&next, format!("{seconds:+}\n")).unwrap();
        fs::rename(&next, &self.clock).unwrap();
        let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let seen = Process::new("date").arg("+%s").envs(self.environment()).output().unwrap().stdout;
        let seen: i64 = String::from_utf8(seen).unwrap().trim().parse().unwrap();
        let jump = seen - i64::try_from(real).unwrap();
        assert!(
            (jump - i64::from(seconds)).abs() < 60,
            "the clock jumped by {jump} s instead of {seconds} s"
        );
    }

    fn fill_the_disk(&mut self) {
        let ballast = self.disk.join("ballast");
        let mut file = File::create(&ballast).unwrap();
        let zeros = vec![0; 64 << 10];
        let end = Instant::now() + self.moment(500..3000);
        while Instant::now() < end {
            // Whatever becomes free is taken as well.
            let error = loop {
                assert!(
                    file.metadata().unwrap().len() < SMALL,
                    "{} is not a small disk",
                    self.disk.display()
                );
                if let Err(error) = file.write_all(&zeros) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
            thread::sleep(Duration::from_millis(20));
        }
        drop(file);
        fs::remove_file(&ballast).unwrap();
    }
}

/// The index of a round.
enum Index {
    /// `lonja up`; `None` while it is being restarted.
    Alone(Option<process::Index>),
    /// Five processes, with files of their own or on one Redis.
    Apart(Box<Cluster>),
}

impl Index {
    /// `lonja up` with its files on the small disk, which is found where it was when it is started again.
    fn alone(place: &Place) -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [peers, console] = listeners.map(|listener| listener.local_addr().unwrap().to_string());
        let arguments = ["--gateway-listen", &peers, "--console-listen", &console].map(str::to_owned);
        Self::Alone(Some(process::Index::start_in(place.data(), arguments.into(), place.environment())))
    }

    fn on_files(place: &Place) -> Self {
        let data = place.data();
        let store = format!("embedded:{}", data.path().display());
        Self::apart(&store, None, data, place)
    }

    fn on_redis(place: &Place) -> Self {
        let redis = RedisServer::start();
        Self::apart(&redis.url(), Some(redis), place.data(), place)
    }

    fn apart(store: &str, redis: Option<RedisServer>, data: TempDir, place: &Place) -> Self {
        let environment = place.environment();
        let environment: Vec<_> = environment.iter().map(|(name, value)| (&**name, &**value)).collect();
        Self::Apart(Box::new(Cluster::on(store, redis, data, &environment)))
    }

    fn up(&mut self) -> &mut process::Index {
        match self {
            Self::Alone(Some(index)) => index,
            _ => unreachable!("a fault of lonja up"),
        }
    }

    fn start_again(&mut self) {
        if let Self::Alone(index) = self {
            *index = index.take().map(process::Index::restart);
        }
    }

    fn services(&mut self) -> &mut Cluster {
        match self {
            Self::Apart(cluster) => cluster,
            Self::Alone(_) => unreachable!("a fault of services"),
        }
    }

    fn redis(&mut self) -> &mut RedisServer {
        self.services().redis.as_mut().expect("a fault of Redis")
    }

    fn peers(&mut self) -> SocketAddr {
        match self {
            Self::Alone(_) => self.up().peers,
            Self::Apart(cluster) => cluster.peers,
        }
    }

    /// Where the records are read.
    fn records(&mut self) -> String {
        match self {
            Self::Alone(_) => format!("http://{}", self.up().console),
            Self::Apart(cluster) => cluster.audit.url(),
        }
    }
}

fn kill(service: &mut Service, place: &mut Place) {
    service.process.kill();
    thread::sleep(place.moment(0..1500));
    service.restart();
}

fn pause(service: &Service, place: &mut Place) {
    service.process.signal("STOP");
    thread::sleep(place.moment(50..1500));
    service.process.signal("CONT");
}

/// What is done to an index, by its name.
type Fault = (&'static str, fn(&mut Index, &mut Place));

const OF_ONE_PROCESS: &[Fault] = &[
    ("kill -9 of lonja up", |index, place| {
        index.up().process.kill();
        thread::sleep(place.moment(0..1000));
        index.start_again();
    }),
    ("stop and start of lonja up", |index, _| {
        index.up().process.signal("TERM");
        assert!(index.up().process.end().success(), "lonja up ends well");
        index.start_again();
    }),
    ("pause of lonja up", |index, place| {
        index.up().process.signal("STOP");
        thread::sleep(place.moment(50..1500));
        index.up().process.signal("CONT");
    }),
];

const OF_SERVICES: &[Fault] = &[
    ("kill -9 of the registry", |index, place| kill(&mut index.services().registry, place)),
    ("kill -9 of the catalog", |index, place| kill(&mut index.services().catalog, place)),
    ("kill -9 of the audit", |index, place| kill(&mut index.services().audit, place)),
    ("kill -9 of the gateway", |index, place| kill(&mut index.services().gateway, place)),
    ("pause of the registry", |index, place| pause(&index.services().registry, place)),
    ("pause of the catalog", |index, place| pause(&index.services().catalog, place)),
    ("pause of the audit", |index, place| pause(&index.services().audit, place)),
    ("pause of the gateway", |index, place| pause(&index.services().gateway, place)),
];

const OF_REDIS: &[Fault] = &[
    ("kill -9 of Redis", |index, place| {
        index.redis().kill();
        thread::sleep(place.moment(0..1500));
        index.redis().restart();
    }),
    ("pause of Redis", |index, place| {
        index.redis().signal("STOP");
        thread::sleep(place.moment(50..1500));
        index.redis().signal("CONT");
    }),
];

const OF_CLOCK: &[Fault] = &[("step of the clock", |_, place| place.step_the_clock())];
const OF_DISK: &[Fault] = &[("full disk", |_, place| place.fill_the_disk())];

/// What a round has to do with.
struct Kind {
    name: &'static str,
    start: fn(&Place) -> Index,
    faults: &'static [&'static [Fault]],
}

/// The kinds that rounds have in turn.
const KINDS: [Kind; 3] = [
    Kind { name: "lonja up", start: Index::alone, faults: &[OF_ONE_PROCESS, OF_DISK, OF_CLOCK] },
    Kind { name: "services on files", start: Index::on_files, faults: &[OF_SERVICES, OF_DISK, OF_CLOCK] },
    Kind { name: "services on Redis", start: Index::on_redis, faults: &[OF_SERVICES, OF_REDIS, OF_CLOCK] },
];

/// What a round did.
struct Round {
    kind: &'static str,
    faults: BTreeMap<&'static str, usize>,
    requests: usize,
    /// How many requests had no answer, or "any other failure".
    failed: usize,
    longest: Duration,
}

/// Waits until peers are served, and their records stored.
fn until_served(index: &mut Index, number: usize) {
    let (peers, records, probe) = (index.peers(), index.records(), format!("probe{number}"));
    let port = std::num::NonZeroU16::new(50_085).unwrap().into();
    eventually("the index takes a PUBLISH", || {
        let _ = wire::try_ask(peers, &probe, Command::Register);
        let _ = wire::try_ask(peers, &probe, Command::Connect(port));
        matches!(wire::try_ask(peers, &probe, wire::publish_command("x")), Some(0 | 3)).then_some(())
    });
    until_recorded(peers, &records, &probe);
}

fn round(number: usize, place: &mut Place, length: Duration) -> Round {
    let kind = &KINDS[number % KINDS.len()];
    let choice = kind.faults.concat();
    let (mut index, end) = ((kind.start)(place), Instant::now() + length);
    let load = Load::start(&[index.peers()], WRITERS, PAUSE);
    let mut faults = BTreeMap::new();
    for number in 0.. {
        if Instant::now() >= end {
            break;
        }
        thread::sleep(place.moment(200..3000));
        let (name, fault) = choice[place.random.usize(..choice.len())];
        fault(&mut index, place);
        *faults.entry(name).or_default() += 1;
        until_served(&mut index, number);
    }
    let done = load.stop();
    verify(index.peers(), &index.records(), &done);
    let longest = done.later_than(Duration::ZERO).into_iter().max().unwrap_or_default();
    assert!(longest < DEADLINE, "a peer waited {longest:?}");
    Round { kind: kind.name, faults, requests: done.sent(), failed: done.failed().len(), longest }
}

fn report(rounds: &[Round], seed: u64, took: Duration) -> String {
    let mut page = format!("# A soak of {} minutes, seed {seed}\n\n", took.as_secs() / 60);
    page += "Of each round everything that was answered with success was in the index at the end, and once in the audit.\n\n";
    page += "| index | rounds | faults | requests | failed or not answered | longest wait |\n|---|---|---|---|---|---|\n";
    let of = |kind| rounds.iter().filter(move |round| round.kind == kind);
    for Kind { name: kind, .. } in KINDS {
        let faults: usize = of(kind).flat_map(|round| round.faults.values()).sum();
        let requests: usize = of(kind).map(|round| round.requests).sum();
        let failed: usize = of(kind).map(|round| round.failed).sum();
        let longest = of(kind).map(|round| round.longest).max().unwrap_or_default();
        let count = of(kind).count();
        page += &format!("| {kind} | {count} | {faults} | {requests} | {failed} | {longest:.1?} |\n");
    }
    page += "\n| what was done | times |\n|---|---|\n";
    let mut times = BTreeMap::<_, usize>::new();
    for (name, count) in rounds.iter().flat_map(|round| &round.faults) {
        *times.entry(name).or_default() += count;
    }
    for (name, count) in times {
        page += &format!("| {name} | {count} |\n");
    }
    page
}

/// The value of a variable that `make soak` sets.
fn setting(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run make soak"))
}

#[test]
#[ignore = "takes an hour: make soak"]
fn nothing_is_lost_in_hours_of_trouble() {
    let disk = PathBuf::from(setting("LONJA_SOAK_DISK"));
    let seed = env::var("LONJA_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    let length = Duration::from_secs(setting("LONJA_SOAK_SECONDS").parse().unwrap());
    let directory = TempDir::new().unwrap();
    let clock = directory.path().join("clock");
    fs::write(&clock, "+0\n").unwrap();
    let faketime = PathBuf::from(setting("LONJA_FAKETIME"));
    let mut place = Place { random: fastrand::Rng::with_seed(seed), disk, clock, faketime };
    println!("seed {seed}");
    let (began, mut rounds) = (Instant::now(), Vec::new());
    while began.elapsed() < length {
        rounds.push(round(rounds.len(), &mut place, ROUND.min(length / ROUNDS)));
        let page = report(&rounds, seed, began.elapsed());
        fs::write(repository("target/soak.md"), &page).unwrap();
        println!(
            "round {}: {} faults",
            rounds.len(),
            rounds[rounds.len() - 1].faults.values().sum::<usize>()
        );
    }
    println!("{}", report(&rounds, seed, began.elapsed()));
}

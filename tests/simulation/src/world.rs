//! One world: its hosts, its peers, and what breaks when.

use std::{
    ops::AddAssign,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lonja_chassis::clock;
use lonja_journal::simulation::{self, LyingDisk};
use lonja_rpc::Names;
use tokio::time;
use turmoil::{Builder, Sim};

use crate::{
    history::{Asked, History},
    hosts::{self, Ran, backends},
    judge,
    network::killing,
    peer::{Manner, PATIENCE, USERS, ask},
    shape::{AUDIT, GATEWAYS, INDEX, SERVICES, Shape},
};

/// The host on which a script runs.
pub(crate) const SCRIPT: &str = "script";
/// How many peers ask for the users.
const PEERS: usize = 4;
/// How many requests a peer makes.
const REQUESTS: usize = 14;
/// How often the index is exported while things break.
const EXPORTS: usize = 3;
/// How often a world takes a step, and its troubles begin and end.
const TICK: Duration = Duration::from_millis(5);
/// For how long things break.
const TROUBLE: Duration = Duration::from_secs(5);

/// When a world begins, after the Unix epoch.
const BEGINNING: Duration = Duration::from_secs(1_715_500_000);

/// What was broken, by kind, and how many requests were made, answered, and answered with a failure.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Faults {
    kills: u64,
    power_cuts: u64,
    gateway_kills: u64,
    partitions: u64,
    one_way_cuts: u64,
    delays: u64,
    bad_disks: u64,
    requests: u64,
    answers: u64,
    failures: u64,
}

impl Faults {
    /// Whether each kind of fault, an answer and a failure have happened.
    pub(crate) fn has_each_kind(&self) -> bool {
        let kinds = [
            self.kills,
            self.power_cuts,
            self.gateway_kills,
            self.partitions,
            self.one_way_cuts,
            self.delays,
            self.bad_disks,
            self.answers,
            self.failures,
        ];
        kinds.iter().all(|kind| *kind > 0)
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, other: Self) {
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.gateway_kills += other.gateway_kills;
        self.partitions += other.partitions;
        self.one_way_cuts += other.one_way_cuts;
        self.delays += other.delays;
        self.bad_disks += other.bad_disks;
        self.requests += other.requests;
        self.answers += other.answers;
        self.failures += other.failures;
    }
}

/// What ends a trouble.
enum Mend {
    Start(&'static str),
    Connect(String, String),
    Release(String, String),
    Disk(usize),
}

struct World {
    shape: Shape,
    random: fastrand::Rng,
    sim: Sim<'static>,
    /// The disks of the shape's keepers.
    disks: Vec<LyingDisk>,
    history: History,
    faults: Faults,
    /// What is to be mended, and when.
    mends: Vec<(Duration, Mend)>,
    down: Vec<&'static str>,
}

/// The time of day in a world, which begins at a moment of its own.
fn time_of_day() -> SystemTime {
    UNIX_EPOCH + BEGINNING + turmoil::sim_elapsed().unwrap_or_default()
}

/// Plays a world to its end, and says how to play a failing one again.
pub(crate) fn play(shape: Shape, seed: u64) -> Faults {
    let played = catch_unwind(AssertUnwindSafe(|| World::new(shape, seed).run()));
    let why = match played {
        Ok(Ok(played)) => return played,
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_default(),
    };
    let test = match shape {
        Shape::Services => "every_world_of_services",
        Shape::OneProcess => "every_world_of_one_process",
    };
    panic!("{why}\nagain: LONJA_SEED={seed} cargo test --package lonja-simulation {test} -- --nocapture");
}

/// Plays a world of services in which nothing breaks but what `script` breaks.
pub(crate) fn play_script(script: impl Future<Output = Ran> + 'static) -> Ran {
    let mut world = World::new(Shape::Services, 0);
    world.begin_hosts(&Names::new(None)?);
    world.sim.client(SCRIPT, script);
    world.sim.run()
}

impl World {
    fn new(shape: Shape, seed: u64) -> Self {
        clock::simulation::set_clock(time_of_day);
        let mut random = fastrand::Rng::with_seed(seed);
        let sim = Builder::new()
            .rng_seed(random.u64(..))
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(120))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(random.u64(2..20)))
            .tcp_capacity(1024)
            .build();
        let disks = shape.keepers().iter().map(|_| LyingDisk::new(random.u64(..))).collect();
        Self {
            shape,
            random,
            sim,
            disks,
            history: History::default(),
            faults: Faults::default(),
            mends: Vec::new(),
            down: Vec::new(),
        }
    }

    fn run(mut self) -> anyhow::Result<Faults> {
        let names = Names::new(None)?;
        self.begin_hosts(&names);
        let (at_rest, busy) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(PEERS)));
        self.begin_judge(&names, &at_rest);
        self.begin_peers(&busy);
        self.begin_exports(&names);
        let mut next = Duration::from_millis(self.random.u64(50..500));
        loop {
            let now = self.sim.elapsed();
            self.mend(now);
            if now < TROUBLE && now >= next {
                self.trouble(now);
                next = now + Duration::from_millis(self.random.u64(20..700));
            }
            if now >= TROUBLE && self.mends.is_empty() && busy.load(Ordering::Acquire) == 0 {
                at_rest.store(true, Ordering::Release);
            }
            if self.sim.step().map_err(|error| anyhow::anyhow!("{error}"))? {
                break;
            }
        }
        let events = self.history.events();
        judge::linear(&self.history)?;
        judge::in_time(&self.history)?;
        self.faults.requests = events.len() as u64;
        self.faults.answers = events.iter().filter(|event| event.told.is_some()).count() as u64;
        self.faults.failures = events.iter().filter(|event| event.failed).count() as u64;
        Ok(self.faults)
    }

    fn begin_hosts(&mut self, names: &Names) {
        match self.shape {
            Shape::Services => {
                let disk = |keeper: usize| self.disks[keeper].clone();
                let (registry, catalog, audit) = (disk(0), disk(1), disk(2));
                self.sim.host(SERVICES[0], move || hosts::registry(registry.clone()));
                self.sim.host(SERVICES[1], move || hosts::catalog(catalog.clone()));
                self.sim.host(SERVICES[2], move || hosts::audit(audit.clone()));
                for gateway in GATEWAYS {
                    let names = names.clone();
                    self.sim.host(gateway, move || hosts::gateway(names.clone()));
                }
            }
            Shape::OneProcess => {
                let disk = self.disks[0].clone();
                self.sim.host(INDEX, move || hosts::index(disk.clone()));
            }
        }
    }

    /// A judge who looks when nothing breaks any more.
    fn begin_judge(&mut self, names: &Names, at_rest: &Arc<AtomicBool>) {
        let (shape, history) = (self.shape, self.history.clone());
        let (names, at_rest) = (names.clone(), Arc::clone(at_rest));
        self.sim.client("judge", async move {
            while !at_rest.load(Ordering::Acquire) {
                time::sleep(Duration::from_millis(50)).await;
            }
            Ok(judge::rest(shape, &backends(shape, &names)?, &history).await?)
        });
    }

    fn begin_peers(&mut self, busy: &Arc<AtomicUsize>) {
        for peer in 0..PEERS {
            let (history, random, busy) = (self.history.clone(), self.random.fork(), Arc::clone(busy));
            let gateways = self.shape.gateways();
            self.sim.client(format!("peer-{peer}"), async move {
                ask_again_and_again(peer, gateways, history, random).await;
                busy.fetch_sub(1, Ordering::Release);
                Ok(())
            });
        }
    }

    /// An operator who exports the index now and then while things break.
    fn begin_exports(&mut self, names: &Names) {
        let (history, names, mut random) = (self.history.clone(), names.clone(), self.random.fork());
        let shape = self.shape;
        self.sim.client("operator", async move {
            let backends = backends(shape, &names)?;
            for _ in 0..EXPORTS {
                time::sleep(Duration::from_millis(random.u64(0..2000))).await;
                // An export whose service does not answer fails, and says nothing.
                match time::timeout(PATIENCE, judge::export(&backends, &history)).await {
                    Ok(Err(error)) if !error.is::<tonic::Status>() => return Err(error.into()),
                    _ => {}
                }
            }
            Ok(())
        });
    }

    fn any<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.usize(..of.len())]
    }

    fn note(&self, now: Duration, what: &str) {
        if std::env::var_os("LONJA_SEED").is_some() {
            println!("{now:?}: {what}");
        }
    }

    fn trouble(&mut self, now: Duration) {
        let until = now + Duration::from_millis(self.random.u64(0..2500));
        match self.random.u32(..100) {
            0..20 => self.kill(self.shape.keepers(), now, until),
            20..35 => self.kill(self.shape.gateways(), now, until),
            35..70 => self.cut_off(now, until),
            70..85 => self.delay(now, until),
            _ => self.break_disk(now, until),
        }
    }

    /// Which of the disks a host has.
    fn keeper(&self, host: &str) -> Option<usize> {
        self.shape.keepers().iter().position(|keeper| *keeper == host)
    }

    /// Kills one of these hosts, or cuts its power.
    fn kill(&mut self, hosts: &'static [&'static str], now: Duration, until: Duration) {
        let host = self.any(hosts);
        if self.down.contains(&host) {
            return;
        }
        let keeper = self.keeper(host);
        let power = keeper.is_some() && self.random.bool();
        self.note(now, &format!("{} {host} until {until:?}", if power { "cut" } else { "kill" }));
        self.no_audit_of(host, None, now, until);
        if let Some(gateway) = self.shape.gateways().iter().position(|gateway| *gateway == host) {
            self.faults.gateway_kills += 1;
            self.history.killed(gateway, now, until + TICK);
        }
        killing(|| self.sim.crash(host));
        match keeper {
            Some(keeper) if power => {
                self.faults.power_cuts += 1;
                self.disks[keeper].restart();
            }
            Some(keeper) => {
                self.faults.kills += 1;
                self.disks[keeper].kill();
            }
            None => {}
        }
        self.down.push(host);
        self.mends.push((until, Mend::Start(host)));
    }

    /// A gateway, and what it talks with: a service as a rule, at times a peer.
    fn ends(&mut self) -> (String, String) {
        let gateway = self.any(self.shape.gateways()).to_owned();
        let services = self.shape.asked_by_gateways();
        if services.is_empty() || self.random.u32(..5) == 0 {
            return (gateway, format!("peer-{}", self.random.usize(..PEERS)));
        }
        (gateway, self.any(services).to_owned())
    }

    /// Notes a trouble of the link between a gateway and a host, if the host is a peer.
    fn no_peer_of(&self, host: &str, gateway: &str, from: Duration, until: Duration) {
        let peer = host.strip_prefix("peer-").and_then(|number| number.parse().ok());
        let gateway = self.shape.gateways().iter().position(|name| *name == gateway);
        if let (Some(peer), Some(gateway)) = (peer, gateway) {
            // A link is mended at the next step.
            self.history.cut_off(gateway, peer, from, until + TICK);
        }
    }

    /// Notes a trouble of a host, or of the link between a gateway and the host, if the host is the audit.
    fn no_audit_of(&self, host: &str, gateway: Option<&str>, from: Duration, until: Duration) {
        if host == AUDIT {
            let gateways = self.shape.gateways();
            let of = gateway.and_then(|name| gateways.iter().position(|gateway| *gateway == name));
            self.history.no_audit(of, from, until + self.shape.recovery());
        }
    }

    fn cut_off(&mut self, now: Duration, until: Duration) {
        let (one, other) = self.ends();
        self.no_audit_of(&other, Some(&one), now, until);
        self.no_peer_of(&other, &one, now, until);
        self.note(now, &format!("cut {one} from {other} until {until:?}"));
        match self.random.u32(..3) {
            0 => {
                self.faults.partitions += 1;
                self.sim.partition(one.as_str(), other.as_str());
            }
            1 => {
                self.faults.one_way_cuts += 1;
                self.sim.partition_oneway(one.as_str(), other.as_str());
            }
            _ => {
                self.faults.one_way_cuts += 1;
                self.sim.partition_oneway(other.as_str(), one.as_str());
            }
        }
        self.mends.push((until, Mend::Connect(one, other)));
    }

    fn delay(&mut self, now: Duration, until: Duration) {
        let (one, other) = self.ends();
        self.no_audit_of(&other, Some(&one), now, until);
        self.no_peer_of(&other, &one, now, until);
        self.note(now, &format!("hold {one} and {other} until {until:?}"));
        self.faults.delays += 1;
        self.sim.hold(one.as_str(), other.as_str());
        self.mends.push((until, Mend::Release(one, other)));
    }

    fn break_disk(&mut self, now: Duration, until: Duration) {
        let keepers = self.shape.keepers();
        let keeper = self.random.usize(..keepers.len());
        let hangs = self.shape == Shape::OneProcess && self.random.u32(..3) == 0;
        // For longer than a request may take.
        let until = if hangs { until + Duration::from_secs(2) } else { until };
        let what = if hangs { "hanging" } else { "bad" };
        self.note(now, &format!("{what} disk of {} until {until:?}", keepers[keeper]));
        self.faults.bad_disks += 1;
        if self.shape.keeps_records(keepers[keeper]) {
            self.history.no_audit(None, now, until + self.shape.recovery());
        }
        let faults = if hangs {
            simulation::Faults { hangs: true, ..simulation::Faults::default() }
        } else {
            let full = self.random.bool();
            simulation::Faults { short_writes: 20, failed_syncs: 20, full, hangs: false }
        };
        self.disks[keeper].set_faults(faults);
        self.mends.push((until, Mend::Disk(keeper)));
    }

    fn mend(&mut self, now: Duration) {
        let (due, later) = std::mem::take(&mut self.mends).into_iter().partition(|(when, _)| *when <= now);
        self.mends = later;
        let due: Vec<(Duration, Mend)> = due;
        for (_, mend) in due {
            match mend {
                Mend::Start(host) => {
                    self.note(now, &format!("start {host}"));
                    self.down.retain(|down| *down != host);
                    if let Some(keeper) = self.keeper(host) {
                        self.disks[keeper].set_faults(simulation::Faults::default());
                    }
                    self.sim.bounce(host);
                }
                Mend::Connect(one, other) => self.sim.repair(one.as_str(), other.as_str()),
                Mend::Release(one, other) => self.sim.release(one.as_str(), other.as_str()),
                Mend::Disk(keeper) => self.disks[keeper].set_faults(simulation::Faults::default()),
            }
        }
    }
}

/// A peer of one user: asks, thinks, and asks again.
async fn ask_again_and_again(peer: usize, gateways: &[&str], history: History, mut random: fastrand::Rng) {
    let user = peer % USERS;
    for _ in 0..REQUESTS {
        time::sleep(Duration::from_millis(random.u64(0..700))).await;
        let asked = match random.u32(..100) {
            0..18 => Asked::Register,
            18..24 => Asked::Unregister,
            24..44 => Asked::Connect,
            44..54 => Asked::Disconnect,
            54..74 => Asked::Publish(random.u8(..3)),
            74..82 => Asked::Delete(random.u8(..3)),
            82..88 => Asked::Users,
            88..91 => Asked::Owner(random.usize(..USERS)),
            91..94 => Asked::OwnerOf(random.u8(..3)),
            _ => Asked::Files(random.usize(..USERS)),
        };
        let gateway = random.usize(..gateways.len());
        let manner = match random.u32(..16) {
            0..4 => Manner::InPieces(random.usize(1..40)),
            4 => Manner::Dying(random.usize(1..80), Duration::from_millis(random.u64(..200))),
            _ => Manner::Whole,
        };
        let dies = matches!(manner, Manner::Dying(..));
        let number = history.sent(peer, user, asked, gateway, dies);
        let answer = time::timeout(PATIENCE, ask(gateways[gateway], user, asked, number, manner)).await;
        let Ok(answer) = answer else { continue };
        history.over(number);
        if let Ok(told) = answer {
            history.told(number, told);
        }
    }
}

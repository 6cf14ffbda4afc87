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
    hosts::{self, AUDIT, GATEWAYS, Ran, SERVICES, backends},
    judge,
    network::killing,
    peer::{Manner, PATIENCE, USERS, ask},
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

/// What was broken, by kind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Faults {
    service_kills: u64,
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
    /// Whether each kind of fault has happened.
    pub(crate) fn has_each_kind(&self) -> bool {
        let kinds = [
            self.service_kills,
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
        self.service_kills += other.service_kills;
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
    random: fastrand::Rng,
    sim: Sim<'static>,
    disks: [LyingDisk; SERVICES.len()],
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
pub(crate) fn play(seed: u64) -> Faults {
    let played = catch_unwind(AssertUnwindSafe(|| World::new(seed).run()));
    let why = match played {
        Ok(Ok(played)) => return played,
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_default(),
    };
    panic!(
        "{why}\nagain: LONJA_SEED={seed} cargo test --package lonja-simulation every_world -- --nocapture"
    );
}

/// Plays a world in which nothing breaks but what `script` breaks.
pub(crate) fn play_script(script: impl Future<Output = Ran> + 'static) -> Ran {
    let mut world = World::new(0);
    world.begin_hosts(&Names::new(None)?);
    world.sim.client(SCRIPT, script);
    world.sim.run()
}

impl World {
    fn new(seed: u64) -> Self {
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
        let disks = [(); SERVICES.len()].map(|()| LyingDisk::new(random.u64(..)));
        Self {
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
        let [registry, catalog, audit] = self.disks.clone();
        self.sim.host(SERVICES[0], move || hosts::registry(registry.clone()));
        self.sim.host(SERVICES[1], move || hosts::catalog(catalog.clone()));
        self.sim.host(SERVICES[2], move || hosts::audit(audit.clone()));
        for gateway in GATEWAYS {
            let names = names.clone();
            self.sim.host(gateway, move || hosts::gateway(names.clone()));
        }
    }

    /// A judge who looks when nothing breaks any more.
    fn begin_judge(&mut self, names: &Names, at_rest: &Arc<AtomicBool>) {
        let (history, names, at_rest) = (self.history.clone(), names.clone(), Arc::clone(at_rest));
        self.sim.client("judge", async move {
            while !at_rest.load(Ordering::Acquire) {
                time::sleep(Duration::from_millis(50)).await;
            }
            Ok(judge::rest(&backends(&names)?, &history).await?)
        });
    }

    fn begin_peers(&mut self, busy: &Arc<AtomicUsize>) {
        for peer in 0..PEERS {
            let (history, random, busy) = (self.history.clone(), self.random.fork(), Arc::clone(busy));
            self.sim.client(format!("peer-{peer}"), async move {
                ask_again_and_again(peer, history, random).await;
                busy.fetch_sub(1, Ordering::Release);
                Ok(())
            });
        }
    }

    /// An operator who exports the index now and then while things break.
    fn begin_exports(&mut self, names: &Names) {
        let (history, names, mut random) = (self.history.clone(), names.clone(), self.random.fork());
        self.sim.client("operator", async move {
            let backends = backends(&names)?;
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
            0..20 => self.kill_service(now, until),
            20..35 => self.kill_gateway(now, until),
            35..70 => self.cut_off(now, until),
            70..85 => self.delay(now, until),
            _ => self.break_disk(now, until),
        }
    }

    fn kill_service(&mut self, now: Duration, until: Duration) {
        let service = self.random.usize(..SERVICES.len());
        if self.down.contains(&SERVICES[service]) {
            return;
        }
        let power = self.random.bool();
        self.note(
            now,
            &format!("{} {} until {until:?}", if power { "cut" } else { "kill" }, SERVICES[service]),
        );
        self.no_audit_of(SERVICES[service], None, now, until);
        killing(|| self.sim.crash(SERVICES[service]));
        if power {
            self.faults.power_cuts += 1;
            self.disks[service].restart();
        } else {
            self.faults.service_kills += 1;
            self.disks[service].kill();
        }
        self.down.push(SERVICES[service]);
        self.mends.push((until, Mend::Start(SERVICES[service])));
    }

    fn kill_gateway(&mut self, now: Duration, until: Duration) {
        let gateway = self.random.usize(..GATEWAYS.len());
        if self.down.contains(&GATEWAYS[gateway]) {
            return;
        }
        self.note(now, &format!("kill {} until {until:?}", GATEWAYS[gateway]));
        self.faults.gateway_kills += 1;
        self.history.killed(gateway, now, until + TICK);
        killing(|| self.sim.crash(GATEWAYS[gateway]));
        self.down.push(GATEWAYS[gateway]);
        self.mends.push((until, Mend::Start(GATEWAYS[gateway])));
    }

    /// A gateway, and what it talks with: a service as a rule, at times a peer.
    fn ends(&mut self) -> (String, String) {
        let gateway = self.any(&GATEWAYS).to_owned();
        if self.random.u32(..5) == 0 {
            return (gateway, format!("peer-{}", self.random.usize(..PEERS)));
        }
        (gateway, self.any(&SERVICES).to_owned())
    }

    /// Notes a trouble of the link between a gateway and a host, if the host is a peer.
    fn no_peer_of(&self, host: &str, gateway: &str, from: Duration, until: Duration) {
        let peer = host.strip_prefix("peer-").and_then(|number| number.parse().ok());
        let gateway = GATEWAYS.iter().position(|name| *name == gateway);
        if let (Some(peer), Some(gateway)) = (peer, gateway) {
            // A link is mended at the next step.
            self.history.cut_off(gateway, peer, from, until + TICK);
        }
    }

    /// Notes a trouble of a host, or of the link between a gateway and the host, if the host is the audit.
    fn no_audit_of(&self, host: &str, gateway: Option<&str>, from: Duration, until: Duration) {
        if host == AUDIT {
            let of = gateway.and_then(|name| GATEWAYS.iter().position(|gateway| *gateway == name));
            self.history.no_audit(of, from, until);
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
        let service = self.random.usize(..SERVICES.len());
        self.note(now, &format!("bad disk of {} until {until:?}", SERVICES[service]));
        self.faults.bad_disks += 1;
        self.no_audit_of(SERVICES[service], None, now, until);
        let full = self.random.bool();
        self.disks[service].set_faults(simulation::Faults { short_writes: 20, failed_syncs: 20, full });
        self.mends.push((until, Mend::Disk(service)));
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
                    if let Some(service) = SERVICES.iter().position(|service| *service == host) {
                        self.disks[service].set_faults(simulation::Faults::default());
                    }
                    self.sim.bounce(host);
                }
                Mend::Connect(one, other) => self.sim.repair(one.as_str(), other.as_str()),
                Mend::Release(one, other) => self.sim.release(one.as_str(), other.as_str()),
                Mend::Disk(service) => self.disks[service].set_faults(simulation::Faults::default()),
            }
        }
    }
}

/// A peer of one user: asks, thinks, and asks again.
async fn ask_again_and_again(peer: usize, history: History, mut random: fastrand::Rng) {
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
        let gateway = random.usize(..GATEWAYS.len());
        let manner = match random.u32(..16) {
            0..4 => Manner::InPieces(random.usize(1..40)),
            4 => Manner::Dying(random.usize(1..80), Duration::from_millis(random.u64(..200))),
            _ => Manner::Whole,
        };
        let dies = matches!(manner, Manner::Dying(..));
        let number = history.sent(peer, user, asked, gateway, dies);
        let answer = time::timeout(PATIENCE, ask(GATEWAYS[gateway], user, asked, number, manner)).await;
        let Ok(answer) = answer else { continue };
        history.over(number);
        if let Ok(told) = answer {
            history.told(number, told);
        }
    }
}

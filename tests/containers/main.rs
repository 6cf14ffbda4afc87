//! The stack of docker-compose.yml as its users get it: built, started with one command,
//! used by Python peers on the host, killed and paused. These tests need a container engine,
//! so they have a command of their own: `make test-containers`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with the tests of the system")]
#[path = "../system/jaeger.rs"]
mod jaeger;
#[allow(dead_code, reason = "shared with the tests of the system")]
#[path = "../system/load.rs"]
mod load;
mod packages;
#[allow(dead_code, reason = "shared with the tests of the system")]
#[path = "../system/peer.rs"]
mod peer;
#[allow(dead_code, reason = "shared with the tests of the system")]
#[path = "../system/process.rs"]
mod process;
#[path = "../system/rows.rs"]
mod rows;
mod stack;
mod up;
#[allow(dead_code, reason = "shared with the tests of the system")]
#[path = "../system/wire.rs"]
mod wire;

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use lonja_wire::Command;
use tempfile::TempDir;

use crate::{
    load::{Load, until_recorded, verify},
    peer::Peer,
    stack::{Stack, docker, output},
};

/// How long a test waits for a condition before it fails, such as for a container to come back.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `condition` gives a value, for `PATIENCE` at most.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// A path below the root of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// All checks are one test, because they share one stack, which takes a while to build.
#[test]
fn the_stack_of_docker_compose() {
    let stack = Stack::start();
    print_image();
    hardened(&stack);
    for peers in &stack.peers {
        rows::each_row::<Peer>(*peers, stack.datetime);
    }
    rows::copy_a_file::<Peer, Peer>(stack.peers[0], stack.datetime);
    traced(&stack);
    shown(&stack);
    survives(&stack);
}

/// Checks how much the image adds to its base, and prints that and how soon its index is ready.
fn print_image() {
    let size = |image: &str| -> f64 {
        let size = output(docker().args(["image", "inspect", "--format", "{{.Size}}", image])).unwrap();
        size.parse::<f64>().unwrap() / 1e6
    };
    let over = size("lonja:local") - size("debian:bookworm-slim");
    assert!(over < 60.0, "the image has {over:.1} MB over its base");
    let id = output(docker().args(["run", "-d", "--rm", "lonja:local"])).unwrap();
    let started = Instant::now();
    eventually("the index in a container is ready", || {
        let ask = ["exec", &id, "lonja", "health", "http://127.0.0.1:8080/readyz"];
        output(docker().args(ask)).map(drop)
    });
    println!(
        "image: {over:.1} MB over its base, ready {:.2} s after docker run",
        started.elapsed().as_secs_f64()
    );
    output(docker().args(["stop", &id])).unwrap();
}

/// Asserts that no container of the services and Redis runs as root, can write to its image, has
/// or gains privileges, or may use memory without a limit.
fn hardened(stack: &Stack) {
    for service in ["gateway", "registry", "catalog", "audit", "datetime", "console", "redis"] {
        for container in stack.containers(service) {
            let format = "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} \
                          {{.HostConfig.SecurityOpt}} {{gt .HostConfig.Memory 0}}";
            let seen = output(docker().args(["inspect", "--format", format, &container])).unwrap();
            let user = if service == "redis" { "redis" } else { "10001:10001" };
            assert_eq!(seen, format!("{user} true [ALL] [no-new-privileges:true] true"), "{service}");
        }
    }
}

/// Asserts that each request makes one trace across the services, and a PUBLISH the whole tree.
fn traced(stack: &Stack) {
    let peers = stack.peers[0];
    jaeger::each_request_is_one_trace(peers, stack.jaeger, jaeger::Shape::Services);
    assert_eq!(wire::register(peers, "tracy"), 0);
    assert_eq!(wire::connect_as(peers, "tracy", 50_085), 0);
    assert_eq!(wire::publish(peers, "tracy", "traced.txt"), 0);
    // Registry and catalog have two replicas each. The tree is the same, whichever was called.
    let trace = eventually("the whole trace", || {
        let traces = jaeger::traces(stack.jaeger, "lonja-gateway", "PUBLISH");
        let is_whole = |trace: &Vec<jaeger::Seen>| trace.len() >= 10;
        let ok = |trace: &Vec<jaeger::Seen>| trace.iter().any(|span| *span.tag("lonja.status") == 0);
        traces.into_iter().find(|trace| is_whole(trace) && ok(trace))
    });
    jaeger::assert_publish(&trace);
}

/// Asserts that the console serves its page, the records of the audit, and an export of everything.
fn shown(stack: &Stack) {
    let (status, page) = process::http_get(stack.console, "/");
    assert!(status == 200 && page.contains("<title>Lonja</title>"), "{status} {page}");
    let url = format!("http://{}", stack.console);
    let list = ["audit", "list", "--user", "tracy", "--operation", "publish", "--console", &url];
    let list = process::lonja().args(list).output().unwrap();
    assert!(String::from_utf8_lossy(&list.stdout).contains("tracy traced.txt"), "{list:?}");
    let export = process::lonja().args(["export", "--console", &url]).output().unwrap();
    let text = String::from_utf8_lossy(&export.stdout);
    let entries = [r#"{"user":{"name":"tracy","session":"#, r#"{"file":{"name":"traced.txt","#, r#"{"end":"#];
    assert!(entries.iter().all(|entry| text.contains(entry)), "{}", String::from_utf8_lossy(&export.stderr));
}

/// With the overlay for mutual TLS peers are served as before, and a caller without a certificate
/// gets no answer.
#[test]
fn the_stack_with_mutual_tls() {
    let certificates = TempDir::new().unwrap();
    let script = repository("deploy/certificates.sh");
    let made = std::process::Command::new("sh").arg(script).arg(certificates.path()).status();
    assert!(made.is_ok_and(|status| status.success()), "deploy/certificates.sh needs openssl");
    let directory = certificates.path().display().to_string();
    let stack = Stack::start_with(Some(("compose.tls.yaml", ("LONJA_TLS", directory))));
    let peers = stack.peers[0];
    assert_eq!(wire::register(peers, "tracy"), 0);
    assert_eq!(wire::connect_as(peers, "tracy", 50_085), 0);
    assert_eq!(wire::publish(peers, "tracy", "traced.txt"), 0);
    shown(&stack);
    let address = stack.audit.to_string();
    let plain = process::lonja().args(["health", &address]).output().unwrap();
    assert_eq!(plain.status.code(), Some(1), "{plain:?}");
}

/// Kills and pauses each container of the services and Redis under load, and asserts that nothing
/// is lost.
fn survives(stack: &Stack) {
    let audit = format!("http://{}", stack.audit);
    let load = Load::start(&stack.peers, 4, Duration::ZERO);
    for service in ["registry", "catalog", "audit", "gateway", "redis", "datetime", "console"] {
        for container in stack.containers(service) {
            stack.crash(&container);
            recovers(stack, &audit, &format!("killed {service} {container}"));
        }
        for container in stack.containers(service) {
            // On a busy machine, pausing fails now and then.
            eventually("a container is paused", || output(docker().args(["pause", &container])));
            thread::sleep(Duration::from_secs(2));
            eventually("a container goes on", || output(docker().args(["unpause", &container])));
            recovers(stack, &audit, &format!("paused {service} {container}"));
        }
    }
    verify(stack.peers[0], &audit, &load.stop());
}

/// Waits until the stack is healthy again by itself, every gateway serves peers, and the audit has
/// all records.
fn recovers(stack: &Stack, audit: &str, what: &str) {
    eventually(what, || stack.is_healthy().then_some(()));
    for (number, peers) in stack.peers.iter().enumerate() {
        let name = format!("{}-{number}", what.replace(' ', "-"));
        let port = std::num::NonZeroU16::new(50_085).unwrap().into();
        eventually("peers are served", || {
            let _ = wire::try_ask(*peers, &name, Command::Register);
            let _ = wire::try_ask(*peers, &name, Command::Connect(port));
            matches!(wire::try_ask(*peers, &name, wire::publish_command("x")), Some(0 | 3)).then_some(())
        });
        until_recorded(*peers, audit, &name);
    }
}

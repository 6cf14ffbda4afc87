//! The services as processes of their own work like `lonja up`, also when one of them is gone or
//! does not answer.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use lonja_proto::{
    audit::{
        ListOperationsRequest, Operation, OperationFilter, OperationRecord, TailOperationsRequest,
        audit_service_client::AuditServiceClient,
    },
    catalog::{self, catalog_service_client::CatalogServiceClient},
    registry::{ListSessionsRequest, registry_service_client::RegistryServiceClient},
};
use lonja_testing::RedisServer;
use lonja_wire::{Command, Encoding};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::{
    cluster::{Cluster, on_each_store},
    eventually,
    peer::{Peer, Shell as _},
    process::{Process, lonja},
    wire,
};

/// The longest that a peer may wait for its status while a service is down.
const DEADLINE: Duration = Duration::from_millis(2500);

/// Asks up to three times, until an answer comes within `DEADLINE`: other work of the machine may
/// delay one answer, but not all.
fn within_the_deadline(ask: impl Fn()) {
    let mut times = Vec::new();
    while times.last().is_none_or(|time| *time >= DEADLINE) {
        assert!(times.len() < 3, "{times:?}");
        let started = Instant::now();
        ask();
        times.push(started.elapsed());
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Waits until the audit has `count` records that pass the filter, and gives them. While the audit
/// is late, a peer is answered before its record is stored.
fn audited_in_all(cluster: &Cluster, filter: OperationFilter, count: usize) -> Vec<OperationRecord> {
    eventually("the audit has every record", || {
        let records = audited(cluster, filter.clone());
        (records.len() >= count).then_some(records)
    })
}

fn audited(cluster: &Cluster, filter: OperationFilter) -> Vec<OperationRecord> {
    runtime().block_on(async {
        let mut client = AuditServiceClient::new(cluster.audit.channel());
        let request = ListOperationsRequest { filter: Some(filter), page_size: 7, ..Default::default() };
        let mut pages = client.list_operations(request).await.unwrap().into_inner();
        let mut records = Vec::new();
        while let Some(page) = pages.message().await.unwrap() {
            assert!(page.records.len() <= 7);
            records.extend(page.records);
        }
        records
    })
}

#[test]
fn five_processes_make_the_same_system() {
    on_each_store(|cluster| {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("hello.txt"), "hello").unwrap();
        let mut peer = Peer::start(cluster.peers, cluster.datetime, directory.path());
        for (command, reply) in [
            ("REGISTER alice", "REGISTER OK"),
            ("REGISTER alice", "USERNAME IN USE"),
            ("CONNECT alice", "CONNECT OK"),
            ("CONNECT alice", "CONNECT FAIL, USER ALREADY CONNECTED"),
            ("PUBLISH hello.txt d", "PUBLISH OK"),
            ("PUBLISH hello.txt d", "PUBLISH FAIL, CONTENT ALREADY PUBLISHED"),
            ("LIST_CONTENT bob", "LIST_CONTENT FAIL, REMOTE USER DOES NOT EXIST"),
        ] {
            assert_eq!(peer.run(command), [reply], "{command}");
        }
        assert_eq!(peer.run("LIST_USERS").len(), 2);
        assert_eq!(peer.run("GET_FILE alice hello.txt copy.txt"), ["GET_FILE OK"]);
        assert_eq!(peer.run("LIST_CONTENT alice"), ["LIST_CONTENT OK", "hello.txt \"d\""]);

        let records = audited_in_all(&cluster, OperationFilter::default(), 9);
        let operations: Vec<_> = records.iter().map(|record| (record.operation(), record.status)).collect();
        assert_eq!(
            operations,
            [
                (Operation::Register, 0),
                (Operation::Register, 1),
                (Operation::Connect, 0),
                (Operation::Connect, 2),
                (Operation::Publish, 0),
                (Operation::Publish, 3),
                (Operation::ListContent, 3),
                (Operation::ListUsers, 0),
                (Operation::ListContent, 0),
            ]
        );
        assert!(records[4].peer_address.starts_with("127.0.0.1:") && records[4].subject == "hello.txt");
        let filter = OperationFilter { operation: Operation::Publish.into(), ..Default::default() };
        assert_eq!(audited(&cluster, filter).len(), 2);
    });
}

#[test]
fn health_is_what_the_store_says_and_reflection_is_on() {
    let mut cluster = Cluster::start();
    let address = cluster.registry.address.to_string();
    let health = |service: &str| lonja().args(["health", &address, "--service", service]).output().unwrap();
    let serves = |service: &str| health(service).status.success();
    eventually("SERVING", || serves("lonja.registry.v1.RegistryService").then_some(()));
    assert!(serves(""));
    assert_eq!(health("lonja.nothing.v1").status.code(), Some(1));

    let services = runtime().block_on(async {
        let mut client = ServerReflectionClient::new(cluster.registry.channel());
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut answers =
            client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        match answers.message().await.unwrap().unwrap().message_response {
            Some(MessageResponse::ListServicesResponse(list)) => list.service,
            other => panic!("{other:?}"),
        }
    });
    assert!(services.iter().any(|service| service.name == "lonja.registry.v1.RegistryService"));

    cluster.registry.process.kill();
    let output = health("");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.lines().count() == 1 && said.contains("Connection refused"), "{said}");
}

#[test]
fn a_registry_that_is_down_costs_a_status_and_comes_back_without_a_restart() {
    let mut cluster = Cluster::start();
    assert_eq!(wire::register(cluster.peers, "alice"), 0);
    cluster.registry.process.kill();
    within_the_deadline(|| assert_eq!(wire::register(cluster.peers, "bob"), 2));
    within_the_deadline(|| assert_eq!(wire::ask(cluster.peers, "alice", Command::ListUsers), 3));
    cluster.registry.restart();
    eventually("the registry is back", || (wire::register(cluster.peers, "alice") == 1).then_some(()));
}

#[test]
fn a_service_that_does_not_answer_costs_a_status_within_the_deadline() {
    let cluster = Cluster::start();
    assert_eq!(wire::register(cluster.peers, "alice"), 0);
    assert_eq!(wire::connect_as(cluster.peers, "alice", 50_085), 0);
    for service in [&cluster.registry, &cluster.catalog] {
        service.process.signal("STOP");
        within_the_deadline(|| assert_eq!(wire::publish(cluster.peers, "alice", "a.txt"), 4));
        service.process.signal("CONT");
        eventually("the service answers again", || {
            matches!(wire::publish(cluster.peers, "alice", "a.txt"), 0 | 3).then_some(())
        });
        assert_eq!(wire::ask(cluster.peers, "alice", Command::Delete("a.txt".parse().unwrap())), 0);
    }
}

#[test]
fn when_no_service_answers_the_status_still_comes_within_the_deadline() {
    let cluster = Cluster::start();
    assert_eq!(wire::register(cluster.peers, "alice"), 0);
    for service in [&cluster.registry, &cluster.catalog, &cluster.audit] {
        service.process.signal("STOP");
    }
    within_the_deadline(|| assert_eq!(wire::register(cluster.peers, "bob"), 2));
}

#[test]
fn without_the_audit_peers_are_served_and_its_records_arrive_later_once_and_in_order() {
    on_each_store(|mut cluster| {
        for stopped in ["kill", "pause"] {
            let name = |number: usize| format!("{stopped}{number}");
            for number in 0..20 {
                assert_eq!(wire::register(cluster.peers, &name(number)), 0);
            }
            match stopped {
                "kill" => cluster.audit.process.kill(),
                _ => cluster.audit.process.signal("STOP"),
            }
            let started = Instant::now();
            for number in 20..60 {
                assert_eq!(wire::register(cluster.peers, &name(number)), 0);
            }
            assert!(started.elapsed() < Duration::from_secs(8), "peers do not wait: {:?}", started.elapsed());
            match stopped {
                "kill" => cluster.audit.restart(),
                _ => cluster.audit.process.signal("CONT"),
            }
            let expected: Vec<_> = (0..60).map(name).collect();
            eventually("every record", || {
                let records = audited(&cluster, OperationFilter::default());
                let users: Vec<_> = records.into_iter().map(|record| record.username).collect();
                let users: Vec<_> = users.into_iter().filter(|user| user.starts_with(stopped)).collect();
                assert!(users.len() <= expected.len(), "none twice");
                (users == expected).then_some(())
            });
        }
    });
}

#[test]
fn the_audit_can_be_followed() {
    on_each_store(|cluster| {
        let runtime = runtime();
        let mut tail = runtime.block_on(async {
            let mut client = AuditServiceClient::new(cluster.audit.channel());
            client.tail_operations(TailOperationsRequest::default()).await.unwrap().into_inner()
        });
        for number in 0..30 {
            assert_eq!(wire::register(cluster.peers, &format!("user{number}")), 0);
        }
        let mut followed = Vec::new();
        while followed.len() < 30 {
            let page =
                runtime.block_on(async { tokio::time::timeout(crate::PATIENCE, tail.message()).await });
            followed.extend(page.unwrap().unwrap().unwrap().records);
        }
        assert!(
            followed.iter().enumerate().all(|(number, record)| record.username == format!("user{number}"))
        );
    });
}

#[test]
fn what_a_crash_left_in_the_catalog_is_swept() {
    on_each_store(|mut cluster| {
        for name in ["alice", "bob"] {
            assert_eq!(wire::register(cluster.peers, name), 0);
            assert_eq!(wire::connect_as(cluster.peers, name, 50_085), 0);
            assert_eq!(wire::publish(cluster.peers, name, "a.txt"), 0);
        }
        cluster.catalog.process.kill();
        assert_eq!(
            wire::ask(cluster.peers, "alice", Command::Disconnect),
            0,
            "the session is over all the same"
        );
        cluster.catalog.restart();
        let runtime = runtime();
        eventually("alice's files are gone", || {
            let statistics = runtime.block_on(async {
                let mut client = CatalogServiceClient::new(cluster.catalog.channel());
                client.get_statistics(catalog::GetStatisticsRequest {}).await
            });
            let statistics = statistics.ok()?.into_inner();
            ((statistics.sessions, statistics.files) == (1, 1)).then_some(())
        });
        assert_eq!(wire::list_content(cluster.peers, "bob", "bob", Encoding::Terminated).unwrap().len(), 1);
        assert_eq!(
            wire::list_content(cluster.peers, "bob", "alice", Encoding::Terminated),
            Err(0).or(Ok(vec![]))
        );
    });
}

#[test]
fn lists_come_in_pages_of_one_moment() {
    on_each_store(|cluster| {
        for number in 0..25 {
            let name = format!("peer{number}");
            assert_eq!(wire::register(cluster.peers, &name), 0);
            assert_eq!(wire::connect_as(cluster.peers, &name, 50_085), 0);
        }
        runtime().block_on(async {
            let mut client = RegistryServiceClient::new(cluster.registry.channel());
            let request = ListSessionsRequest { page_size: 10, ..Default::default() };
            let mut pages = client.list_sessions(request).await.unwrap().into_inner();
            let mut sizes = Vec::new();
            let mut revision = String::new();
            while let Some(page) = pages.message().await.unwrap() {
                assert_eq!(page.total, 25);
                sizes.push(page.sessions.len());
                revision = page.revision;
            }
            assert_eq!(sizes, [10, 10, 5]);
            let request = ListSessionsRequest { known_revision: revision, ..Default::default() };
            let mut pages = client.list_sessions(request).await.unwrap().into_inner();
            assert!(pages.message().await.unwrap().unwrap().not_modified);
        });
    });
}

#[test]
fn every_process_ends_within_ten_seconds_of_sigterm() {
    let mut cluster = Cluster::start();
    assert_eq!(wire::register(cluster.peers, "alice"), 0);
    let Cluster { gateway, registry, catalog, audit, .. } = &mut cluster;
    let processes: [&mut Process; 4] =
        [&mut gateway.process, &mut registry.process, &mut catalog.process, &mut audit.process];
    for process in processes {
        let started = Instant::now();
        process.signal("TERM");
        assert!(process.end().success());
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn with_the_users_of_deploy_each_service_reaches_its_own_keys_only() {
    let passwords = ["REGISTRY", "CATALOG", "AUDIT"].map(|service| format!("LONJA_REDIS_{service}_PASSWORD"));
    let passwords: Vec<_> = passwords.iter().map(|name| (name.as_str(), "secret")).collect();
    let redis = RedisServer::start_by(&crate::repository("deploy/redis-start.sh"), &passwords);
    let url = |user: &str| format!("redis://{user}:secret@127.0.0.1:{}", redis.port());
    let urls = ["registry", "catalog", "audit"].map(url);
    let port = redis.port();
    let data = TempDir::new().unwrap();
    let cluster = Cluster::on_stores(urls.each_ref().map(String::as_str), Some(redis), data, &[]);
    let ask = |user: &str, command: &[&str]| {
        let mut cli = std::process::Command::new("redis-cli");
        cli.args(["-p", &port.to_string(), "--no-auth-warning", "--user", user, "--pass", "secret"]);
        String::from_utf8(cli.args(command).output().unwrap().stdout).unwrap()
    };
    // Each service may use every command that it needs.
    assert_eq!(wire::register(cluster.peers, "alice"), 0);
    assert_eq!(wire::connect_as(cluster.peers, "alice", 50_085), 0);
    assert_eq!(wire::publish(cluster.peers, "alice", "a.txt"), 0);
    assert_eq!(wire::list_users(cluster.peers, "alice", Encoding::Padded).unwrap().len(), 1);
    assert_eq!(wire::list_content(cluster.peers, "alice", "alice", Encoding::Padded).unwrap().len(), 1);
    assert_eq!(wire::ask(cluster.peers, "alice", Command::Delete("a.txt".parse().unwrap())), 0);
    assert_eq!(wire::publish(cluster.peers, "alice", "b.txt"), 0);
    assert_eq!(wire::ask(cluster.peers, "alice", Command::Disconnect), 0);
    assert_eq!(wire::ask(cluster.peers, "alice", Command::Unregister), 0);
    assert_eq!(audited_in_all(&cluster, OperationFilter::default(), 9).len(), 9);
    for service in [&cluster.registry, &cluster.catalog, &cluster.audit] {
        let address = service.address.to_string();
        eventually("SERVING", || {
            lonja().args(["health", &address]).output().unwrap().status.success().then_some(())
        });
    }
    // No service may use other commands, or the keys of others.
    for user in ["registry", "catalog", "audit"] {
        for command in [&["KEYS", "*"][..], &["FLUSHALL"], &["CONFIG", "GET", "*"], &["ACL", "LIST"]] {
            assert!(ask(user, command).starts_with("NOPERM"), "{user} {command:?}");
        }
    }
    assert!(ask("registry", &["GET", "lonja:catalog:{0}:totals"]).starts_with("NOPERM"));
    assert!(ask("default", &["PING"]).contains("NOAUTH") || ask("default", &["PING"]).contains("WRONGPASS"));
}

/// Bug: a pod of Redis that was deleted by force was still serving when its successor had read the
/// files. What was acknowledged in between was lost.
#[test]
fn a_second_redis_on_the_same_files_waits_for_the_end_of_the_first() {
    let script = crate::repository("deploy/redis-start.sh");
    let passwords = ["REGISTRY", "CATALOG", "AUDIT"].map(|service| format!("LONJA_REDIS_{service}_PASSWORD"));
    let passwords: Vec<_> = passwords.iter().map(|name| (name.as_str(), "secret")).collect();
    let mut first = RedisServer::start_by(&script, &passwords);
    let ask = |port: u16, user: &str, command: &[&str]| {
        let mut cli = std::process::Command::new("redis-cli");
        cli.args(["-p", &port.to_string(), "--no-auth-warning", "--user", user, "--pass", "secret"]);
        String::from_utf8(cli.args(command).output().unwrap().stdout).unwrap()
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut second = std::process::Command::new("sh");
    second.arg(&script).envs(passwords).env("LONJA_REDIS_DIR", first.directory());
    second.env("LONJA_REDIS_PORT", port.to_string()).env("LONJA_REDIS_BIND", "127.0.0.1");
    second.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let second = Process::spawn(&mut second);
    eventually("the second waits", || {
        second.stderr().iter().any(|line| line.contains("still uses")).then_some(())
    });
    let key = "lonja:registry:{0}:probe";
    assert_eq!(ask(first.port(), "registry", &["SET", key, "written"]).trim(), "OK");
    assert_eq!(ask(port, "registry", &["GET", key]), "", "the second does not listen yet");
    first.kill();
    eventually("the second has what the first acknowledged", || {
        (ask(port, "registry", &["GET", key]).trim() == "written").then_some(())
    });
}

/// Bug: Redis replays its append-only file as the default user. What that user may not do was left
/// out, without an error, when Redis came back.
#[test]
fn with_the_users_of_deploy_redis_comes_back_with_everything() {
    let passwords = ["REGISTRY", "CATALOG", "AUDIT"].map(|service| format!("LONJA_REDIS_{service}_PASSWORD"));
    let passwords: Vec<_> = passwords.iter().map(|name| (name.as_str(), "secret")).collect();
    let redis = RedisServer::start_by(&crate::repository("deploy/redis-start.sh"), &passwords);
    let url = |user: &str| format!("redis://{user}:secret@127.0.0.1:{}", redis.port());
    let urls = ["registry", "catalog", "audit"].map(url);
    let data = TempDir::new().unwrap();
    let mut cluster = Cluster::on_stores(urls.each_ref().map(String::as_str), Some(redis), data, &[]);
    assert_eq!(wire::register(cluster.peers, "alice"), 0);
    assert_eq!(wire::connect_as(cluster.peers, "alice", 50_085), 0);
    assert_eq!(wire::publish(cluster.peers, "alice", "a.txt"), 0);
    let redis = cluster.redis.as_mut().unwrap();
    redis.kill();
    redis.restart();
    eventually("peers are served again", || {
        let files = wire::list_content(cluster.peers, "alice", "alice", Encoding::Padded);
        match files {
            Ok(files) => {
                let _: () = assert_eq!(files.len(), 1);
                Some(())
            }
            Err(status) => {
                assert_eq!(status, 4, "alice's session is lost");
                None
            }
        }
    });
    eventually("the audit has the last record", || {
        let records = audited(&cluster, OperationFilter::default());
        let succeeded = records.iter().filter(|record| record.status == 0).count();
        assert!(succeeded <= 4, "{records:?}");
        (succeeded == 4).then_some(())
    });
}

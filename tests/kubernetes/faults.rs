//! What is done to a release while peers use it: no peer may get a failure.

use std::{sync::Arc, time::Duration};

use lonja_wire::Command;

use crate::{
    eventually,
    install::Release,
    kubectl::{Namespace, pods, until_settled},
    load::{Acknowledged, Load, until_recorded},
    wire,
};

const WRITERS: usize = 4;
/// How long a writer pauses behind each answer. For two minutes after a pod is gone, the node may lead a
/// client's port that was connected to the pod to nowhere, so no port may be used again that soon: of
/// 28,000 ports, 230 may be used each second.
const PAUSE: Duration = Duration::from_millis(25);
/// The roles that have Deployments.
const ROLES: [&str; 6] = ["gateway", "registry", "catalog", "audit", "datetime", "console"];

/// Starts peers that use the index through a port of the node.
pub(crate) fn start_load(release: &Release) -> Load {
    Load::start(&[release.node_port()], WRITERS, PAUSE)
}

/// Asserts that nobody got a failure so far, and that peers are served.
fn goes_on(load: &Load, release: &Release, after: &str) {
    let sent = load.done.sent();
    eventually("peers are served", || (load.done.sent() > sent + 100).then_some(()));
    nobody_failed(&load.done, after);
    let name = after.replace([' ', '/'], "-");
    until_recorded(release.node_port(), &release.audit().url(), &name);
    println!("{after}: {} operations, none failed", load.done.sent());
}

/// Goes on until at least `operations` were sent, stops, and asserts that nobody got a failure.
pub(crate) fn stop_after(load: Load, operations: usize) -> Arc<Acknowledged> {
    eventually("enough operations", || (load.done.sent() >= operations).then_some(()));
    let done = load.stop();
    nobody_failed(&done, "everything");
    done
}

fn nobody_failed(done: &Acknowledged, after: &str) {
    let failed = done.failed();
    assert!(failed.is_empty(), "after {after}, of {} operations: {failed:#?}", done.sent());
}

/// Waits until everything of a release is ready, and nothing is being removed.
fn until_ready(release: &Release) {
    for role in ROLES {
        let deployment = format!("deployment/lonja-{role}");
        release.namespace.kubectl(&["rollout", "status", &deployment, "--timeout=120s"]);
    }
    let redis = release.of_redis();
    let set = redis.kubectl(&["get", "statefulset", "-o", "name"]);
    redis.kubectl(&["rollout", "status", &set, "--timeout=120s"]);
    until_settled(release.namespace);
    until_settled(redis);
}

fn of_role(role: &str) -> String {
    format!("app.kubernetes.io/name=lonja,app.kubernetes.io/component={role}")
}

/// Deletes a pod of each kind, with grace and without.
pub(crate) fn each_pod_is_deleted(release: &Release, load: &Load) {
    let with_redis =
        ROLES.map(|role| (release.namespace, role)).into_iter().chain([(release.of_redis(), "redis")]);
    for (namespace, role) in with_redis {
        for how in
            [&["--wait=true", "--timeout=120s"][..], &["--grace-period=0", "--force", "--timeout=120s"]]
        {
            let pod = pods(namespace, &of_role(role)).into_iter().next().expect("a pod");
            namespace.kubectl(&[&["delete", "pod", &pod], how].concat());
            until_ready(release);
            goes_on(load, release, &format!("{role} deleted {}", how[0].trim_start_matches("--")));
        }
    }
}

/// The names and unique ids of all pods.
fn identities(namespace: &Namespace) -> Vec<String> {
    let format = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid}{\"\\n\"}{end}";
    let mut pods: Vec<_> =
        namespace.kubectl(&["get", "pods", "-o", format]).lines().map(str::to_owned).collect();
    pods.sort();
    pods
}

/// Which pods of `after` were not there `before`, without the Deployments' random parts.
fn replaced(before: &[String], after: &[String]) -> Vec<String> {
    let fresh = after.iter().filter(|pod| !before.contains(pod));
    let mut names: Vec<_> = fresh.filter_map(|pod| pod.split('-').nth(1).map(str::to_owned)).collect();
    names.sort();
    names.dedup();
    names
}

/// An upgrade that changes a value of every service replaces every service, and Redis not.
pub(crate) fn every_service_gets_another_value(release: &mut Release, load: &Load) {
    let before = identities(release.namespace);
    release.upgrade(None, Some("logLevel=warn"));
    until_ready(release);
    let mut all = ROLES.map(str::to_owned).to_vec();
    all.sort();
    assert_eq!(replaced(&before, &identities(release.namespace)), all);
    goes_on(load, release, "another value of every service");
}

/// An upgrade to another version of the chart in which no pod changes replaces no pod.
pub(crate) fn another_version_of_the_chart(release: &mut Release, load: &Load) {
    let before = identities(release.namespace);
    let chart = release.changed_chart("version", "Chart.yaml", "\nversion: ", "\nversion: 9");
    release.upgrade(Some(chart), None);
    until_ready(release);
    assert_eq!(replaced(&before, &identities(release.namespace)), [""; 0]);
    goes_on(load, release, "another version of the chart");
}

/// An upgrade that changes the configuration of the release's Redis replaces Redis, and nothing else.
pub(crate) fn another_configuration_of_redis(release: &mut Release, load: &Load) {
    let before = identities(release.namespace);
    let has_redis = std::ptr::eq(release.of_redis(), release.namespace);
    let from = "tcp-keepalive 60";
    let chart = release.changed_chart("redis", "files/redis.conf", from, "tcp-keepalive 61");
    release.upgrade(Some(chart), None);
    until_ready(release);
    let expected: &[&str] = if has_redis { &["redis"] } else { &[] };
    assert_eq!(replaced(&before, &identities(release.namespace)), expected);
    goes_on(load, release, "another configuration of Redis");
}

/// A rollback to the revision of the install.
pub(crate) fn back_to_the_first_revision(release: &mut Release, load: &Load) {
    release.roll_back();
    until_ready(release);
    let level = "jsonpath={.spec.template.spec.containers[0].env[?(@.name==\"LONJA_LOG\")].value}";
    let level = release.namespace.kubectl(&["get", "deployment/lonja-gateway", "-o", level]);
    assert_eq!(level, "info");
    goes_on(load, release, "back to the first revision");
    assert_eq!(wire::ask(release.node_port(), "nobody", Command::Disconnect), 1);
}

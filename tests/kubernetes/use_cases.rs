//! What people do with a release, and what must be there at the end.

use crate::{
    eventually,
    install::Release,
    jaeger,
    kubectl::Namespace,
    load::{Acknowledged, verify},
    peer::Peer,
    process, rows, wire,
};

/// Has original peers go through the rows of the protocol's table through a port of the node and a
/// forwarded port, and a peer in a pod of the cluster.
pub(crate) fn peers_through_each_way_in(release: &Release) {
    let namespace = release.namespace;
    let datetime = namespace.forward("service/lonja-datetime", 8000);
    rows::each_row::<Peer>(release.node_port(), datetime.address);
    let forwarded = namespace.forward("service/lonja-gateway", 5050);
    rows::each_row::<Peer>(forwarded.address, datetime.address);
    // Through a forwarded port peers are listed at 127.0.0.1, where original peers listen.
    rows::copy_a_file::<Peer, Peer>(forwarded.address, datetime.address);
    a_pod(namespace);
}

/// Runs a peer in a pod that does not belong to the release.
fn a_pod(namespace: &Namespace) {
    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    let image = namespace.kubectl(&["get", "deployment/lonja-gateway", "-o", image]);
    let steps =
        ["register", "connect 50085", "publish hello.txt hello", "users", "content podder", "disconnect"];
    let peer = "lonja peer -s lonja-gateway -p 5050 --datetime http://lonja-datetime:8000/?wsdl \
                --data-dir /tmp --as podder";
    let script = steps.map(|step| format!("{peer} {step}")).join(" && ");
    namespace.apply(&format!(
        r#"{{
        "apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "a-peer"}},
        "spec": {{
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "securityContext": {{"runAsNonRoot": true, "runAsUser": 10001, "seccompProfile": {{"type": "RuntimeDefault"}}}},
            "containers": [{{
                "name": "peer", "image": "{image}", "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", "{script}"],
                "securityContext": {{"allowPrivilegeEscalation": false, "capabilities": {{"drop": ["ALL"]}}}}
            }}]
        }}}}"#
    ));
    let phase = eventually("the peer in a pod is done", || {
        let phase = namespace.kubectl(&["get", "pod", "a-peer", "-o", "jsonpath={.status.phase}"]);
        ["Succeeded", "Failed"].contains(&phase.as_str()).then_some(phase)
    });
    let printed = namespace.kubectl(&["logs", "a-peer"]);
    assert_eq!(phase, "Succeeded", "{printed}");
    assert!(printed.contains("podder") && printed.contains("hello.txt"), "{printed}");
    namespace.kubectl(&["delete", "pod", "a-peer"]);
}

/// Asserts that the console serves its page and the audit's records.
pub(crate) fn the_console(release: &Release) {
    let console = release.namespace.forward("service/lonja-console", 8080);
    let (status, page) = process::http_get(console.address, "/");
    assert!(status == 200 && page.contains("<title>Lonja</title>"), "{status} {page}");
    let list = ["audit", "list", "--user", "podder", "--operation", "publish", "--console", &console.url()];
    let list = process::lonja().args(list).output().unwrap();
    assert!(String::from_utf8_lossy(&list.stdout).contains("podder hello.txt"), "{list:?}");
}

/// Asserts that each request makes one trace, as Jaeger's own API gives it.
pub(crate) fn one_trace_for_each_request(release: &Release) {
    let jaeger = release.namespace.forward("service/lonja-jaeger", 16686);
    jaeger::each_request_is_one_trace(release.node_port(), jaeger.address, jaeger::Shape::Services);
}

/// Asserts that everything that was acknowledged is in the index, and once in the audit.
pub(crate) fn nothing_is_lost(release: &Release, done: &Acknowledged) {
    let peers = release.node_port();
    eventually("peers are served", || wire::try_ask(peers, "nobody", lonja_wire::Command::Disconnect));
    verify(peers, &release.audit().url(), done);
}

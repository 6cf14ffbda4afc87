//! Reads traces through Jaeger's query API, and checks them.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use lonja_wire::Command;
use serde_json::Value;

use crate::{eventually, process::http, wire};

/// The parts of a span that tests look at.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) id: String,
    pub(crate) parent: Option<String>,
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) tags: Vec<(String, Value)>,
    pub(crate) process: Vec<(String, Value)>,
}

impl Seen {
    pub(crate) fn tag(&self, key: &str) -> &Value {
        self.tags.iter().find(|(name, _)| name == key).map_or(&Value::Null, |(_, value)| value)
    }
}

fn tags(value: &Value) -> Vec<(String, Value)> {
    let tags = value.as_array().unwrap().iter();
    tags.map(|tag| (tag["key"].as_str().unwrap().to_owned(), tag["value"].clone())).collect()
}

/// Gives the traces that have a span of this service and operation.
pub(crate) fn traces(query: SocketAddr, service: &str, operation: &str) -> Vec<Vec<Seen>> {
    traces_since(query, service, operation, UNIX_EPOCH)
}

/// Gives the traces since this moment that have a span of this service and operation.
fn traces_since(query: SocketAddr, service: &str, operation: &str, since: SystemTime) -> Vec<Vec<Seen>> {
    let microseconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_micros();
    let (start, end) = (microseconds(since), microseconds(SystemTime::now()));
    let path =
        format!("/api/traces?service={service}&operation={operation}&limit=100&start={start}&end={end}");
    // To a caller of HTTP/1.1 Jaeger answers in chunks.
    let (status, body) = http(query, &format!("GET {path} HTTP/1.0\r\nHost: {query}\r\n\r\n"));
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    let seen = |trace: &Value, span: &Value| {
        let process = &trace["processes"][span["processID"].as_str().unwrap()];
        let references = span["references"].as_array().unwrap();
        let parent = references.iter().find(|reference| reference["refType"] == "CHILD_OF");
        Seen {
            id: span["spanID"].as_str().unwrap().to_owned(),
            parent: parent.map(|parent| parent["spanID"].as_str().unwrap().to_owned()),
            service: process["serviceName"].as_str().unwrap().to_owned(),
            name: span["operationName"].as_str().unwrap().to_owned(),
            tags: tags(&span["tags"]),
            process: tags(&process["tags"]),
        }
    };
    let spans =
        |trace: &Value| trace["spans"].as_array().unwrap().iter().map(|span| seen(trace, span)).collect();
    body["data"].as_array().unwrap().iter().map(spans).collect()
}

/// Asserts that exactly one such span is directly below `parent`, and gives this span.
pub(crate) fn below<'a>(trace: &'a [Seen], parent: &Seen, service: &str, kind: &str, name: &str) -> &'a Seen {
    let found: Vec<_> = trace
        .iter()
        .filter(|span| span.parent.as_deref() == Some(&parent.id))
        .filter(|span| span.service == service && span.tag("span.kind") == kind && span.name == name)
        .collect();
    assert_eq!(found.len(), 1, "{service} {kind} {name} below {}: {trace:#?}", parent.name);
    found[0]
}

/// The shape of the index whose traces are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Each service is a process of its own, and their state is in Redis.
    Services,
    /// All is one process.
    Up,
}

/// Sends each operation a few times, and asserts that each request has made one trace, which begins
/// at the gateway and has the calls of the other services, and theirs of Redis.
pub(crate) fn each_request_is_one_trace(peers: SocketAddr, query: SocketAddr, shape: Shape) {
    const TIMES: usize = 5;
    let since = SystemTime::now();
    let file = || "traced.txt".parse().unwrap();
    let operations = |name: &str| -> [(Command, &[&str]); 8] {
        let port = std::num::NonZeroU16::new(50_085).unwrap().into();
        [
            (Command::Register, &["registry"]),
            (Command::Connect(port), &["registry"]),
            (Command::Publish(file(), "a description".parse().unwrap()), &["registry", "catalog"]),
            (Command::ListUsers, &["registry"]),
            (Command::ListContent(Some(name.parse().unwrap())), &["registry", "catalog"]),
            (Command::Delete(file()), &["registry", "catalog"]),
            (Command::Disconnect, &["registry", "catalog"]),
            (Command::Unregister, &["registry"]),
        ]
    };
    for number in 0..TIMES {
        let name = format!("traced{number}");
        for (command, _) in operations(&name) {
            let operation = command.operation().name();
            assert_eq!(wire::ask(peers, &name, command), 0, "{operation} of {name}");
        }
    }
    for (command, services) in operations("traced") {
        let operation = command.operation().name();
        let complete = |trace: &Vec<Seen>| {
            let answers = |service: &str, span: &Seen| {
                let is_its = shape == Shape::Up || span.service == format!("lonja-{service}");
                is_its && span.name.starts_with(&format!("lonja.{service}.v1."))
            };
            let asks_redis = |service: &str, span: &Seen| {
                span.service == format!("lonja-{service}") && *span.tag("db.system.name") == "redis"
            };
            let has = |service: &&str| {
                trace.iter().any(|span| answers(service, span))
                    && (shape == Shape::Up || trace.iter().any(|span| asks_redis(service, span)))
            };
            services.iter().chain([&"audit"]).all(has)
        };
        let gateway = if shape == Shape::Up { "lonja" } else { "lonja-gateway" };
        let found = eventually("a whole trace for each request", || {
            let found = traces_since(query, gateway, operation, since);
            (found.len() >= TIMES && found.iter().all(complete)).then_some(found)
        });
        assert_eq!(found.len(), TIMES, "{operation}");
        for trace in found {
            let roots: Vec<_> = trace.iter().filter(|span| span.parent.is_none()).collect();
            assert_eq!(roots.len(), 1, "{operation}: {trace:#?}");
            assert_eq!((roots[0].service.as_str(), roots[0].name.as_str()), (gateway, operation));
            assert_eq!(*roots[0].tag("lonja.status"), 0);
            let is_above = |span: &Seen| {
                span.parent.as_ref().is_none_or(|parent| trace.iter().any(|other| other.id == *parent))
            };
            assert!(trace.iter().all(is_above), "{operation} has a gap: {trace:#?}");
        }
    }
}

/// Asserts that a trace is the tree of a PUBLISH: gateway, registry, catalog, audit, and their
/// calls to Redis.
pub(crate) fn assert_publish(trace: &[Seen]) {
    let root = trace.iter().find(|span| span.parent.is_none()).expect("a root");
    assert_eq!((root.service.as_str(), root.name.as_str()), ("lonja-gateway", "PUBLISH"));
    assert_eq!(root.tag("span.kind"), "server");
    assert_eq!(root.tag("lonja.dialect"), "char");
    assert_eq!(root.tag("lonja.status"), 0);
    assert!(root.tag("client.address").is_string() && root.tag("error").is_null());
    let call = |service: &str, method: &str| {
        let client = below(trace, root, "lonja-gateway", "client", method);
        assert_eq!(client.tag("rpc.system.name"), "grpc");
        assert_eq!(client.tag("rpc.method"), method);
        assert_eq!(client.tag("rpc.response.status_code"), "OK");
        below(trace, client, service, "server", method)
    };
    let registry = call("lonja-registry", "lonja.registry.v1.RegistryService/GetSession");
    let read = below(trace, registry, "lonja-registry", "client", "HGET");
    assert_eq!(read.tag("db.system.name"), "redis");
    assert_eq!(read.tag("db.operation.name"), "HGET");
    let catalog = call("lonja-catalog", "lonja.catalog.v1.CatalogService/PublishFile");
    let script = below(trace, catalog, "lonja-catalog", "client", "EVALSHA catalog");
    assert_eq!(script.tag("db.stored_procedure.name"), "catalog");
    let audit = call("lonja-audit", "lonja.audit.v1.AuditService/RecordOperations");
    below(trace, audit, "lonja-audit", "client", "EVALSHA audit");
    assert_eq!(trace.len(), 10, "{trace:#?}");
    let process = |key: &str| root.process.iter().find(|(name, _)| name == key).map(|(_, value)| value);
    assert_eq!(process("service.namespace"), Some(&Value::from("lonja")));
    assert_eq!(process("service.version"), Some(&Value::from(env!("CARGO_PKG_VERSION"))));
    assert!(process("service.instance.id").is_some());
}

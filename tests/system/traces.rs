//! One trace for each peer request, asserted through Jaeger's query.

use std::{net::SocketAddr, num::NonZeroU16};

use lonja_testing::{RedisServer, TraceReceiver};
use lonja_wire::Command;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{cluster::Cluster, eventually, process::http_get, wire};

/// A span as a test looks at it.
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

/// The traces with a span of this service and name.
pub(crate) fn traces(query: SocketAddr, service: &str, operation: &str) -> Vec<Vec<Seen>> {
    let path = format!("/api/traces?service={service}&operation={operation}&limit=100");
    let (status, body) = http_get(query, &path);
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

/// Asserts that a span is there, once, below another; gives it.
pub(crate) fn below<'a>(trace: &'a [Seen], parent: &Seen, service: &str, kind: &str, name: &str) -> &'a Seen {
    let found: Vec<_> = trace
        .iter()
        .filter(|span| span.parent.as_deref() == Some(&parent.id))
        .filter(|span| span.service == service && span.tag("span.kind") == kind && span.name == name)
        .collect();
    assert_eq!(found.len(), 1, "{service} {kind} {name} below {}: {trace:#?}", parent.name);
    found[0]
}

/// The tree of a PUBLISH: gateway, registry, catalog, Redis and audit.
pub(crate) fn assert_publish(trace: &[Seen]) {
    let root = trace.iter().find(|span| span.parent.is_none()).expect("a root");
    assert_eq!((root.service.as_str(), root.name.as_str()), ("lonja-gateway", "PUBLISH"));
    assert_eq!(root.tag("span.kind"), "server");
    assert_eq!(root.tag("lonja.dialect"), "terminated");
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

fn receiver() -> (Runtime, TraceReceiver) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let receiver = runtime.block_on(TraceReceiver::start("127.0.0.1:0", "127.0.0.1:0")).unwrap();
    (runtime, receiver)
}

fn traced(receiver: &TraceReceiver) -> Cluster {
    let redis = RedisServer::start();
    let endpoint = format!("http://{}", receiver.otlp());
    let environment =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "100")];
    Cluster::on(&redis.url(), Some(redis), TempDir::new().unwrap(), &environment)
}

#[test]
fn a_publish_is_one_trace_from_accept_to_redis_and_audit_and_health_checks_make_none() {
    let (_runtime, receiver) = receiver();
    let cluster = traced(&receiver);
    assert_eq!(wire::register(cluster.peers, "alice"), 0);
    assert_eq!(wire::connect_as(cluster.peers, "alice", 50_085), 0);
    assert_eq!(wire::publish(cluster.peers, "alice", "a.txt"), 0);
    let query = receiver.query();
    let trace = eventually("the whole trace", || {
        traces(query, "lonja-gateway", "PUBLISH").into_iter().find(|trace| trace.len() >= 10)
    });
    assert_publish(&trace);

    // Probes have come every second since the start, and are no traces.
    for service in ["lonja-gateway", "lonja-registry", "lonja-catalog", "lonja-audit"] {
        for method in ["GetStatistics", "grpc.health.v1.Health/Check"] {
            for package in ["lonja.registry.v1.RegistryService/", "lonja.catalog.v1.CatalogService/", ""] {
                assert!(traces(query, service, &format!("{package}{method}")).is_empty());
            }
        }
    }
}

#[test]
fn a_refusal_is_no_error_and_a_failure_is_one_and_its_log_line_carries_the_trace() {
    let (_runtime, receiver) = receiver();
    let mut cluster = traced(&receiver);
    let port = NonZeroU16::new(50_085).unwrap().into();
    assert_eq!(wire::ask(cluster.peers, "nobody", Command::Connect(port)), 1);
    cluster.registry.process.kill();
    assert_eq!(wire::register(cluster.peers, "alice"), 2);
    let query = receiver.query();
    let root = |operation: &str| {
        let trace = eventually("the trace", || traces(query, "lonja-gateway", operation).into_iter().next());
        trace.into_iter().find(|span| span.parent.is_none()).expect("a root")
    };
    assert!(root("CONNECT").tag("error").is_null());
    let failed = root("REGISTER");
    assert_eq!((failed.tag("error"), failed.tag("lonja.status")), (&Value::from(true), &Value::from(2)));
    let lines = cluster.gateway.process.stderr();
    assert!(lines.iter().any(|line| line.contains("trace_id=") && line.contains("span_id=")), "{lines:?}");
}

#[test]
fn the_last_spans_are_sent_at_shutdown() {
    let (_runtime, receiver) = receiver();
    let redis = RedisServer::start();
    let endpoint = format!("http://{}", receiver.otlp());
    // Nothing would be sent by itself for an hour.
    let environment =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "3600000")];
    let mut cluster = Cluster::on(&redis.url(), Some(redis), TempDir::new().unwrap(), &environment);
    for number in 0..100 {
        assert_eq!(wire::register(cluster.peers, &format!("user{number}")), 0);
    }
    assert!(traces(receiver.query(), "lonja-gateway", "REGISTER").is_empty());
    cluster.gateway.process.signal("TERM");
    assert!(cluster.gateway.process.end().success());
    assert_eq!(traces(receiver.query(), "lonja-gateway", "REGISTER").len(), 100);
}

#[test]
fn what_is_not_sampled_is_not_sent() {
    let (_runtime, receiver) = receiver();
    let redis = RedisServer::start();
    let endpoint = format!("http://{}", receiver.otlp());
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
        ("OTEL_SERVICE_NAME", "another-name"),
    ];
    let mut cluster = Cluster::on(&redis.url(), Some(redis), TempDir::new().unwrap(), &environment);
    assert_eq!(wire::register(cluster.peers, "alice"), 0);
    for service in [&mut cluster.gateway, &mut cluster.registry, &mut cluster.audit] {
        service.process.signal("TERM");
        assert!(service.process.end().success());
    }
    let (status, body) = http_get(receiver.query(), "/api/services");
    assert_eq!((status, body.as_str()), (200, "{\"data\":[]}"));
}

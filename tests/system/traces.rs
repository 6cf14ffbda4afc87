//! One trace for each peer request, as Jaeger's query API gives it.

use std::num::NonZeroU16;

use lonja_testing::{RedisServer, TraceReceiver};
use lonja_wire::Command;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    cluster::Cluster,
    eventually,
    jaeger::{Shape, assert_publish, each_request_is_one_trace, traces},
    process::{Index, http_get},
    wire,
};

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

    // Health checks have run every second since the start, and must have made no traces.
    for service in ["lonja-gateway", "lonja-registry", "lonja-catalog", "lonja-audit"] {
        for method in ["GetStatistics", "grpc.health.v1.Health/Check"] {
            for package in ["lonja.registry.v1.RegistryService/", "lonja.catalog.v1.CatalogService/", ""] {
                assert!(traces(query, service, &format!("{package}{method}")).is_empty());
            }
        }
    }
}

#[test]
fn each_request_of_each_operation_is_one_trace() {
    let (_runtime, receiver) = receiver();
    let cluster = traced(&receiver);
    each_request_is_one_trace(cluster.peers, receiver.query(), Shape::Services);
}

/// In one process no record is sent, and each trace shows all the same when its record was durable.
#[test]
fn each_request_of_lonja_up_is_one_trace() {
    let (_runtime, receiver) = receiver();
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), format!("http://{}", receiver.otlp())),
        ("OTEL_BSP_SCHEDULE_DELAY".to_owned(), "100".to_owned()),
    ];
    let index = Index::start_in(TempDir::new().unwrap(), Vec::new(), environment.into());
    each_request_is_one_trace(index.peers, receiver.query(), Shape::Up);
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
    // With a delay of an hour, only the shutdown can send the spans.
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

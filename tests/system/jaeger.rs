//! Reads traces through Jaeger's query API, and checks them.

use std::net::SocketAddr;

use serde_json::Value;

use crate::process::http_get;

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

/// Asserts that a trace is the tree of a PUBLISH: gateway, registry, catalog, audit, and their
/// calls to Redis.
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

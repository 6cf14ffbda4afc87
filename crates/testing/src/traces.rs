//! A receiver of spans that answers queries for traces as Jaeger does.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Query, State},
    routing::get,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value::Value as Any},
    resource::v1::Resource,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// The largest number of spans that are kept: the newest ones.
const SPANS: usize = 100_000;

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<VecDeque<(Resource, Span)>>>);

/// A receiver of spans. It ends when this value is dropped.
#[derive(Debug)]
pub struct TraceReceiver {
    otlp: SocketAddr,
    query: SocketAddr,
    tasks: JoinSet<()>,
}

impl TraceReceiver {
    /// Starts a receiver that takes spans over OTLP (gRPC) at the address `otlp`, and answers
    /// queries over HTTP at the address `query`.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    #[allow(clippy::disallowed_methods, reason = "a test's few connections fit any backlog")]
    pub async fn start(otlp: &str, query: &str) -> io::Result<Self> {
        let (otlp, query) = (TcpListener::bind(otlp).await?, TcpListener::bind(query).await?);
        let addresses = (otlp.local_addr()?, query.local_addr()?);
        let spans = Spans::default();
        let router = Router::new()
            .route("/api/services", get(services))
            .route("/api/traces", get(traces))
            .with_state(spans.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(spans));
            let _ = server.serve_with_incoming(TcpIncoming::from(otlp)).await;
        });
        tasks.spawn(async move {
            let _ = axum::serve(query, router).await;
        });
        Ok(Self { otlp: addresses.0, query: addresses.1, tasks })
    }

    /// The address to which spans are sent.
    #[must_use]
    pub fn otlp(&self) -> SocketAddr {
        self.otlp
    }

    /// The address at which queries for traces are answered.
    #[must_use]
    pub fn query(&self) -> SocketAddr {
        self.query
    }

    /// Waits until one of the receiver's two servers ends, which happens only if it fails.
    pub async fn ended(mut self) {
        self.tasks.join_next().await;
    }
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().unwrap();
        for of_resource in request.into_inner().resource_spans {
            let resource = of_resource.resource.unwrap_or_default();
            let fresh = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(fresh.map(|span| (resource.clone(), span)));
        }
        let excess = spans.len().saturating_sub(SPANS);
        spans.drain(..excess);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn services(State(Spans(spans)): State<Spans>) -> Json<Value> {
    let spans = spans.lock().unwrap();
    let mut names: Vec<_> = spans.iter().map(|(resource, _)| service(resource)).collect();
    names.sort();
    names.dedup();
    Json(json!({ "data": names }))
}

/// Answers a query as Jaeger does: with the newest traces that have a span of the service and of
/// the operation in the query. A trace comes with all its spans, of whichever service.
async fn traces(
    State(Spans(spans)): State<Spans>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Json<Value> {
    let spans = spans.lock().unwrap();
    let mut by_trace: BTreeMap<String, Vec<&(Resource, Span)>> = BTreeMap::new();
    for entry in spans.iter() {
        by_trace.entry(hex(&entry.1.trace_id)).or_default().push(entry);
    }
    let asked = |(resource, span): &&(Resource, Span)| {
        query.get("service").is_none_or(|name| *name == service(resource))
            && query.get("operation").is_none_or(|name| *name == span.name)
    };
    let mut found: Vec<_> = by_trace.into_iter().filter(|(_, spans)| spans.iter().any(asked)).collect();
    found.sort_by_key(|(_, spans)| {
        std::cmp::Reverse(spans.iter().map(|(_, span)| span.start_time_unix_nano).min())
    });
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(20);
    let data: Vec<_> = found.into_iter().take(limit).map(|(id, spans)| trace(&id, &spans)).collect();
    Json(json!({ "data": data }))
}

fn trace(id: &str, spans: &[&(Resource, Span)]) -> Value {
    let mut processes = serde_json::Map::new();
    let mut listed = Vec::new();
    for (index, (resource, span)) in spans.iter().enumerate() {
        let process = format!("p{index}");
        let tags = tags(&resource.attributes);
        processes.insert(process.clone(), json!({ "serviceName": service(resource), "tags": tags }));
        let mut references: Vec<_> =
            span.links.iter().map(|link| reference("FOLLOWS_FROM", &link.trace_id, &link.span_id)).collect();
        if !span.parent_span_id.is_empty() {
            references.insert(0, reference("CHILD_OF", &span.trace_id, &span.parent_span_id));
        }
        listed.push(json!({
            "traceID": id,
            "spanID": hex(&span.span_id),
            "operationName": span.name,
            "references": references,
            "startTime": span.start_time_unix_nano / 1000,
            "duration": span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano) / 1000,
            "tags": span_tags(span),
            "processID": process,
        }));
    }
    json!({ "traceID": id, "spans": listed, "processes": processes })
}

fn reference(kind: &str, trace: &[u8], span: &[u8]) -> Value {
    json!({ "refType": kind, "traceID": hex(trace), "spanID": hex(span) })
}

fn span_tags(span: &Span) -> Vec<Value> {
    let mut all = tags(&span.attributes);
    let kind = match span.kind() {
        SpanKind::Server => "server",
        SpanKind::Client => "client",
        SpanKind::Producer => "producer",
        SpanKind::Consumer => "consumer",
        SpanKind::Internal | SpanKind::Unspecified => "internal",
    };
    all.push(json!({ "key": "span.kind", "type": "string", "value": kind }));
    if span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error) {
        all.push(json!({ "key": "error", "type": "bool", "value": true }));
    }
    all
}

fn tags(attributes: &[KeyValue]) -> Vec<Value> {
    attributes.iter().map(|attribute| tag(&attribute.key, attribute.value.as_ref())).collect()
}

fn tag(key: &str, value: Option<&AnyValue>) -> Value {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => json!({ "key": key, "type": "string", "value": text }),
        Some(Any::IntValue(number)) => json!({ "key": key, "type": "int64", "value": number }),
        Some(Any::BoolValue(truth)) => json!({ "key": key, "type": "bool", "value": truth }),
        Some(Any::DoubleValue(number)) => json!({ "key": key, "type": "float64", "value": number }),
        other => json!({ "key": key, "type": "string", "value": format!("{other:?}") }),
    }
}

fn service(resource: &Resource) -> String {
    let name = resource.attributes.iter().find(|attribute| attribute.key == "service.name");
    match name.and_then(|name| name.value.as_ref()?.value.as_ref()) {
        Some(Any::StringValue(name)) => name.clone(),
        _ => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

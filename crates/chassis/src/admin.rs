//! The HTTP endpoints of each process: `/livez`, `/readyz`, `/metrics`.

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{health::Health, http, telemetry};

/// Serves the endpoints until shutdown.
pub async fn serve(listener: TcpListener, health: Health, shutdown: CancellationToken) {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(|| async { telemetry::render_metrics() }))
        .with_state(health);
    http::serve(listener, router, shutdown).await;
}

async fn ready(State(health): State<Health>) -> (StatusCode, String) {
    let status = if health.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, health.describe())
}

//! The HTTP endpoints of each process: `/livez`, `/readyz`, `/metrics`.

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use lonja_telemetry::metrics;

use crate::{health::Health, http};

/// Makes the router of the endpoints. `/readyz` answers 200 while every service in `health` is
/// ready, and 503 otherwise.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(|| async { metrics::render() }))
        .with_state(health)
}

/// Serves the endpoints until shutdown.
pub async fn serve(listener: TcpListener, health: Health, shutdown: CancellationToken) {
    http::serve(listener, router(health), shutdown).await;
}

async fn ready(State(health): State<Health>) -> (StatusCode, String) {
    let status = if health.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, health.describe())
}

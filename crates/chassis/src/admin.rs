//! The HTTP endpoints of each process: `/livez`, `/readyz`, `/metrics`.

use std::{future::IntoFuture as _, io};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{health::Health, shutdown, telemetry};

/// Serves the endpoints until shutdown.
///
/// # Errors
/// When accepting fails for good.
pub async fn serve(listener: TcpListener, health: Health, shutdown: CancellationToken) -> io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(|| async { telemetry::render_metrics() }))
        .with_state(health);
    let server = axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned())
        .into_future();
    shutdown::within_drain(&shutdown, server).await.unwrap_or(Ok(()))
}

async fn ready(State(health): State<Health>) -> (StatusCode, String) {
    let status = if health.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, health.describe())
}

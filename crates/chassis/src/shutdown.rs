//! How a process ends: told once, finished within a bound.

use std::{convert::Infallible, future::Future, io, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long requests in flight may take to finish after the signal.
pub const DRAIN: Duration = Duration::from_secs(8);

/// Cancels the token at the first SIGTERM or SIGINT, and ends the process at the second.
/// To be run beside the service, until that has ended.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn on_signal(shutdown: CancellationToken) -> io::Result<impl Future<Output = Infallible>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down");
        shutdown.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(1)
    })
}

/// Runs a server until it ends by itself; once shutdown has begun it gets [`DRAIN`] and
/// is then dropped. `None` says that it had to be.
pub async fn within_drain<T>(shutdown: &CancellationToken, server: impl Future<Output = T>) -> Option<T> {
    let expired = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        result = server => Some(result),
        () = expired => None,
    }
}

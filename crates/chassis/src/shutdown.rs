//! How a process ends: a signal begins the shutdown, and what is in flight gets a bounded time.

use std::{convert::Infallible, future::Future, io, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long requests in flight may take to finish after the signal.
pub const DRAIN: Duration = Duration::from_secs(8);

/// Gives a future that cancels `shutdown` at the first SIGTERM or SIGINT, and ends the process with
/// exit code 1 at the second. Run the future beside the service, until the service has ended.
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
        tracing::info!(
            "shutting down, within about {} s; another signal ends the process at once",
            DRAIN.as_secs()
        );
        shutdown.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(1)
    })
}

/// Runs a server until it ends by itself. Once shutdown has begun, the server gets [`DRAIN`] to
/// end; after that it is dropped, and the result is `None`.
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

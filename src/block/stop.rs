//! Ctrl-C: what is under way is given up in good order.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of a program that SIGINT ended, as shells have it.
pub(super) const INTERRUPTED: u8 = 130;

/// A token that SIGINT and SIGTERM cancel.
///
/// # Errors
/// When the system does not let them be listened to.
pub(super) fn on_signals() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}

/// What ends with the token.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// # Errors
/// Once the token is cancelled. Lets other tasks run, so that signals are heard.
pub(super) async fn check(stop: &CancellationToken) -> Result<(), Interrupted> {
    tokio::task::yield_now().await;
    if stop.is_cancelled() { Err(Interrupted) } else { Ok(()) }
}

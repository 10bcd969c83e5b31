//! Ctrl-C, or SIGTERM, as something to wait for.

use std::io;

use tokio::sync::watch;

/// Knows whether the process is asked to stop. Once it listens, a first signal no longer ends the process; a second does.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    pub(crate) fn listen() -> Self {
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            if signal().await.is_ok() {
                sender.send_replace(true);
                crate::say("stopping; once more to stop at once, which loses nothing either");
                if signal().await.is_ok() {
                    std::process::exit(130);
                }
            }
            // Without signals there is nothing to tell, now or later.
            sender.closed().await;
        });
        Self(receiver)
    }

    /// Resolves when the process is asked to stop.
    pub(crate) async fn requested(&mut self) {
        if self.0.wait_for(|requested| *requested).await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(unix)]
async fn signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn signal() -> io::Result<()> {
    tokio::signal::ctrl_c().await
}

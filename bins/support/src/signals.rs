//! SIGTERM and SIGINT: the first asks for a clean stop, the second ends the process at once.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code after a second signal, as shells have it for SIGINT.
const AT_ONCE: i32 = 130;

/// Listens for both from the moment it is made.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// Takes the signals over. Inside a tokio runtime.
    pub fn install() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal and names it. Dropping the future loses none.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            biased;
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }

    /// From now on a signal ends the process at once.
    pub fn exit_on_next(mut self) {
        tokio::spawn(async move {
            let name = self.next().await;
            tracing::warn!("{name} came again: ending at once");
            std::process::exit(AT_ONCE);
        });
    }
}

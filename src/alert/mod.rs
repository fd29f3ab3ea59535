//! Crossings and incidents → sinks: log, file, webhook. An alert is on disk before `raise` returns, and each sink delivers from its
//! own outbox until it has succeeded: at least once, in order, over restarts. A sink that fails never holds up another.

mod outbox;
mod webhook;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use outbox::Outbox;
pub use webhook::signature;

/// Something people should hear about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Unique; a receiver that has seen it may drop it.
    pub id: String,
    /// `threshold`, `stop`, `incident`, `policy`, `ledger`.
    pub kind: String,
    /// UTC.
    pub at: jiff::Timestamp,
    /// Account (login), where there is one.
    pub account: Option<String>,
    /// One line for people.
    pub message: String,
    /// Machine-readable rest; never a value of a protected column, never a literal.
    pub details: serde_json::Value,
}

/// A sink as the configuration writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkConfig {
    /// A line in Menshen's own log.
    Log,
    /// JSON lines.
    File {
        /// The file; appended.
        path: PathBuf,
    },
    /// HTTP POST.
    Webhook {
        /// `http://` or `https://`.
        url: String,
        /// File whose trimmed content is the HMAC key; unsigned without.
        secret_file: Option<PathBuf>,
    },
}

/// The alert could not be put on disk.
#[derive(Debug, thiserror::Error)]
#[error("alert outbox: {0}")]
pub struct AlertError(pub String);

/// All sinks.
pub struct Alerts {
    sinks: Vec<(Arc<Outbox>, Option<JoinHandle<()>>)>,
}

impl Alerts {
    /// Starts a thread per sink; outboxes live in `directory`.
    ///
    /// # Errors
    /// Where an outbox can't be made, or a secret can't be read.
    pub fn start(sinks: &[SinkConfig], directory: &Path) -> Result<Self, AlertError> {
        let mut started = Vec::new();
        for (index, sink) in sinks.iter().enumerate() {
            let (name, deliver): (&str, outbox::Deliver) = match sink {
                SinkConfig::Log => (
                    "log",
                    Box::new(|alert, _| {
                        tracing::warn!(kind = %alert.kind, account = alert.account.as_deref().unwrap_or("-"), id = %alert.id, "{}", alert.message);
                        Ok(())
                    }),
                ),
                SinkConfig::File { path } => {
                    let path = path.clone();
                    ("file", Box::new(move |_, json| append(&path, json)))
                }
                SinkConfig::Webhook { url, secret_file } => {
                    ("webhook", webhook::deliverer(url, secret_file.as_deref())?)
                }
            };
            let outbox = Arc::new(Outbox::open(&directory.join(format!("{index}-{name}")))?);
            let own = Arc::clone(&outbox);
            let thread = std::thread::Builder::new()
                .name(format!("menshen-alert-{name}"))
                .spawn(move || own.run(&deliver))
                .map_err(|e| AlertError(e.to_string()))?;
            started.push((outbox, Some(thread)));
        }
        Ok(Self { sinks: started })
    }

    /// Puts an alert on disk for every sink.
    ///
    /// # Errors
    /// Where it can't be put on disk.
    pub fn raise(&self, alert: &Alert) -> Result<(), AlertError> {
        let json = serde_json::to_string(alert).map_err(|e| AlertError(e.to_string()))?;
        for (outbox, _) in &self.sinks {
            outbox.put(&json)?;
        }
        Ok(())
    }
}

impl Drop for Alerts {
    fn drop(&mut self) {
        for (outbox, _) in &self.sinks {
            outbox.stop();
        }
        for (_, thread) in &mut self.sinks {
            if let Some(thread) = thread.take() {
                let _panicked = thread.join();
            }
        }
    }
}

fn append(path: &Path, json: &str) -> Result<(), String> {
    use std::io::Write;
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut f| f.write_all(format!("{json}\n").as_bytes()))
        .map_err(|e| format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests;

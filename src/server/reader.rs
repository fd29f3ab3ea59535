//! Reading a database's catalog by the service login.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Error, Statement};

use super::upstream::{Place, Upstreams, words};
use crate::catalog::{Catalog, introspect};

/// For how long a connection stays open for the next reading. PostgreSQL's DROP DATABASE waits 5 seconds for others to leave.
pub(super) const IDLE: Duration = Duration::from_secs(2);

/// A connection of the service login that has the question prepared: its planning is half of what a small catalog costs.
pub(super) struct Reader {
    upstreams: Arc<Upstreams>,
    client: Client,
    question: Statement,
    used: Instant,
}

impl Reader {
    /// # Errors
    /// A sentence: the login fails.
    pub(super) async fn connect(upstreams: &Arc<Upstreams>, place: &Place, database: &str) -> Result<Self, String> {
        let client = upstreams.service(place, database).await?;
        let prepared = async {
            client.batch_execute(introspect::PREPARE).await?;
            client.prepare(introspect::QUERY).await
        };
        let question = prepared.await.map_err(|e| failed(&e))?;
        Ok(Self {
            upstreams: Arc::clone(upstreams),
            client,
            question,
            used: Instant::now(),
        })
    }

    /// Whether it was opened by this configuration.
    pub(super) fn is_of(&self, upstreams: &Arc<Upstreams>) -> bool {
        Arc::ptr_eq(&self.upstreams, upstreams)
    }

    /// Whether nobody has read by it for a while.
    pub(super) fn is_idle(&self) -> bool {
        self.used.elapsed() >= IDLE
    }

    /// Reads the catalog. `before` is an earlier reading.
    ///
    /// # Errors
    /// A sentence: the answer does not come, or can't be read.
    pub(super) async fn read(&mut self, before: Option<Arc<Catalog>>) -> Result<Catalog, String> {
        let row = self.client.query_one(&self.question, &[]).await;
        let document = row
            .and_then(|row| row.try_get::<_, String>(0))
            .map_err(|e| failed(&e))?;
        self.used = Instant::now();
        let epoch = before.as_ref().map_or(1, |b| b.epoch + 1);
        tokio::task::spawn_blocking(move || {
            introspect::parse(&document, epoch, before.as_deref()).map_err(|e| e.to_string())
        })
        .await
        .map_err(|e| e.to_string())?
    }
}

fn failed(error: &Error) -> String {
    format!("Menshen cannot read the catalog: {}", words(error))
}

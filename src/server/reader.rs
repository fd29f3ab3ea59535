//! Reading a database's catalog by the service login.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Error, Statement};

use super::upstream::{Place, Upstreams, words};
use crate::catalog::{Catalog, introspect};

/// For how long a connection stays open for the next reading. PostgreSQL's DROP DATABASE waits 5 seconds for others to leave.
pub(super) const IDLE: Duration = Duration::from_secs(2);

/// Where a server stands in the log. The names are those of PostgreSQL's manual, 9.28.3 and 9.28.4. That the question takes a number of a transaction has
/// a primary write its log out to here at once (as a commit with `synchronous_commit = off` does); else what an open transaction has begun to write
/// could stay in its memory for as long as nobody commits, and no standby would come to it.
const POSITION: &str = "SELECT r.standby, (CASE WHEN r.standby THEN pg_catalog.pg_last_wal_replay_lsn() \
    ELSE pg_catalog.pg_current_wal_insert_lsn() END OPERATOR(pg_catalog.-) '0/0'::pg_catalog.pg_lsn)::pg_catalog.int8, \
    CASE WHEN NOT r.standby THEN pg_catalog.pg_current_xact_id()::pg_catalog.text END \
    FROM (SELECT pg_catalog.pg_is_in_recovery() AS standby) r";

/// How far a server's log goes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// A primary has written so far, or is about to: what is committed lies before.
    Written(u64),
    /// A standby has replayed so far; `None`: nothing yet.
    Replayed(Option<u64>),
}

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

    /// Where the server stands in its log.
    ///
    /// # Errors
    /// A sentence: the answer does not come.
    pub(super) async fn position(&mut self) -> Result<Position, String> {
        let row = self.client.query_one(POSITION, &[]).await;
        let answer = row.and_then(|row| Ok((row.try_get::<_, bool>(0)?, row.try_get::<_, Option<i64>>(1)?)));
        let (standby, bytes) = answer.map_err(|e| failed(&e))?;
        self.used = Instant::now();
        let bytes = bytes.and_then(|b| u64::try_from(b).ok());
        Ok(if standby {
            Position::Replayed(bytes)
        } else {
            Position::Written(end_of_last_record(bytes.unwrap_or(0)))
        })
    }
}

/// Where the next record will begin lies behind the header of a page where the last record has filled the one before; what is replayed ends
/// with the record (xlog.c, XLogBytePosToRecPtr and XLogBytePosToEndRecPtr).
fn end_of_last_record(next: u64) -> u64 {
    const PAGE: u64 = 8192;
    const HEADERS: [u64; 2] = [24, 40];
    let within = next % PAGE;
    if HEADERS.contains(&within) { next - within } else { next }
}

fn failed(error: &Error) -> String {
    format!("Menshen cannot read the catalog: {}", words(error))
}

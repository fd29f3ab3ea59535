//! Keeping catalogs fresh: one [`Keeper`] per server and database.

use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use super::reader::{Position, Reader};
use super::shared::{Rules, Shared};
use super::upstream::{Place, Upstreams};
use crate::catalog::Catalog;
use crate::config::Config;
use crate::guard::{self, Context, ContextNumber, Ground, Plan, Plans, Request, Verdict};
use crate::session::Judge;

/// Policy and catalog of one database on one server, resolved against each other. A standby has a catalog of its own: it is behind.
pub struct Keeper {
    place: Place,
    pub(super) database: String,
    ground: ArcSwap<Ground>,
    /// Plans made on it. Those of grounds before are found by nobody, and give way.
    plans: Plans,
    /// Held while the catalog is read: whoever waits for it uses what the one before has brought, if it began later.
    reading: Mutex<Reading>,
    begun: std::sync::atomic::AtomicU64,
    /// Changes of the catalog that sessions have told of, and how many of them the ground knows.
    changes: std::sync::atomic::AtomicU64,
    known_changes: std::sync::atomic::AtomicU64,
    made: Instant,
    /// When a session told of the last one here.
    told: std::sync::Mutex<Option<Instant>>,
    /// Until then, in milliseconds since it was made, the catalog is read for every statement: a change may be on its way here. No lock:
    /// each Bind of each session looks.
    restless: std::sync::atomic::AtomicU64,
    /// The change that may be on its way.
    awaited: std::sync::Mutex<Option<Arc<Awaited>>>,
}

/// A change of the catalog that was told at another address of the database.
struct Awaited {
    at: Weak<Keeper>,
    /// Whether it is here, found out by the first reading that waits for it. False: not in time, or it can't be told.
    arrived: tokio::sync::OnceCell<bool>,
    /// No reading waits longer than until then.
    until: Instant,
}

/// Where reading the catalog stands.
#[derive(Default)]
struct Reading {
    /// Requests up to this one have what they asked for.
    done: u64,
    reader: Option<Reader>,
}

/// A standby replays a change of the primary within this time, or has its catalog read by the timer.
const LAG: Duration = Duration::from_secs(10);
/// What reading a catalog may take: a server that has stopped to answer must not be waited for by every session that comes after.
const READ_MAX: Duration = Duration::from_secs(60);

impl Judge for Keeper {
    fn ground(&self) -> Arc<Ground> {
        self.ground.load_full()
    }

    fn is_ground(&self, ground: &Arc<Ground>) -> bool {
        Arc::ptr_eq(&self.ground.load(), ground)
    }

    fn judges_away(&self) -> bool {
        true
    }

    fn kept(&self, request: &Request<'_>, number: ContextNumber) -> Option<Plan> {
        self.plans.kept(request, number)
    }

    fn number(&self, context: &Context) -> Option<ContextNumber> {
        self.plans.number(context)
    }

    fn examine(&self, ground: &Ground, request: &Request<'_>, number: Option<ContextNumber>) -> Result<Plan, Verdict> {
        match number {
            Some(number) => self.plans.examine(ground, request, number),
            None => guard::examine(ground, request),
        }
    }

    fn is_behind(&self) -> bool {
        use std::sync::atomic::Ordering::SeqCst;
        let restless = self.restless.load(SeqCst);
        self.known_changes.load(SeqCst) < self.changes.load(SeqCst) || restless > 0 && self.age() < restless
    }
}

impl Keeper {
    /// The keeper of a database on a server; its first catalog is read before this returns.
    pub(super) async fn of(shared: &Arc<Shared>, place: &Place, database: &str) -> Result<Arc<Self>, String> {
        let name = (place.clone(), database.to_owned());
        let known = |s: &Shared| {
            s.keepers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&name)
                .cloned()
        };
        if let Some(keeper) = known(shared) {
            return Ok(keeper);
        }
        let mut reader = Reader::connect(&shared.upstreams.load_full(), place, database).await?;
        let catalog = Arc::new(reader.read(None).await?);
        let rules = shared.rules.load_full();
        let ground = resolve(rules, catalog, None).await?;
        // Where the database is known by another address, a change that was told there meanwhile is missing here.
        let others = shared.keepers().iter().any(|k| k.database == database);
        let keeper = Arc::new(Self {
            place: place.clone(),
            database: database.to_owned(),
            ground: ArcSwap::from_pointee(ground),
            plans: Plans::new(shared.config.plan_bytes),
            reading: Mutex::default(),
            begun: std::sync::atomic::AtomicU64::new(0),
            changes: std::sync::atomic::AtomicU64::new(u64::from(others)),
            known_changes: std::sync::atomic::AtomicU64::new(0),
            made: Instant::now(),
            told: std::sync::Mutex::default(),
            restless: std::sync::atomic::AtomicU64::new(0),
            awaited: std::sync::Mutex::default(),
        });
        let listed = {
            let mut keepers = shared.keepers.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(keepers.entry(name).or_insert(keeper))
        };
        // A change that was told before it stood in the list has passed it by: a standby may not have replayed it yet.
        for other in shared
            .keepers()
            .iter()
            .filter(|k| k.database == database && k.place != *place)
        {
            let told = *other.told.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(told) = told.filter(|t| t.elapsed() < LAG) {
                listed.awaits(other, told + LAG);
            }
        }
        // So has a policy that was loaded.
        let rules = shared.rules.load_full();
        if listed.ground.load().policy.epoch != rules.policy.epoch {
            listed.adopt(rules).await?;
        }
        Ok(listed)
    }

    /// Milliseconds since it was made.
    fn age(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A session has committed a change of the catalog. Other keepers of the database may be of the same server by another address, and learn it
    /// at once; or of a standby, which comes to it in its own time.
    pub(super) fn changed(self: &Arc<Self>, shared: &Shared) {
        let now = Instant::now();
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        for keeper in shared.keepers().iter().filter(|k| k.database == self.database) {
            if keeper.place != self.place {
                keeper.awaits(self, now + LAG);
            }
            // After what is awaited: a reading that counts this change waits for it.
            keeper.changes.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }

    /// From now on every reading waits for what has been changed there by now.
    fn awaits(&self, at: &Arc<Self>, until: Instant) {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        *awaited = Some(Arc::new(Awaited {
            at: Arc::downgrade(at),
            arrived: tokio::sync::OnceCell::new(),
            until,
        }));
        let age = until.saturating_duration_since(self.made).as_millis();
        let age = u64::try_from(age).unwrap_or(u64::MAX);
        self.restless.fetch_max(age, std::sync::atomic::Ordering::SeqCst);
    }

    fn awaited(&self) -> Option<Arc<Awaited>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the catalog anew. Requests that come while one is being read share the next. A standby to which a change is on its way is read
    /// when it has replayed it: a statement that was judged by the catalog before would run on the one after.
    pub(super) async fn refresh(self: &Arc<Self>, shared: &Shared) -> Result<(), String> {
        use std::sync::atomic::Ordering;
        let ticket = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        // In this order: a change is awaited before it is counted.
        let told = self.changes.load(Ordering::SeqCst);
        let awaited = self.awaited();
        // Not under our own lock: the other keeper may be waiting for us, and a policy that is loaded must not.
        if let Some(change) = &awaited {
            change.arrived.get_or_init(|| self.arrives(shared, change)).await;
        }
        let mut reading = self.reading.lock().await;
        if reading.done >= ticket {
            return Ok(()); // somebody began to read after we asked
        }
        let (mut covers, mut changes) = (self.begun.load(Ordering::SeqCst), self.changes.load(Ordering::SeqCst));
        if self.awaited().as_ref().map(Arc::as_ptr) != awaited.as_ref().map(Arc::as_ptr) {
            // Another change was told meanwhile, which this reading has not waited for. Where many are made, one after the other, each reading waits
            // for its own, or it would wait for ever.
            (covers, changes) = (ticket, told);
        }
        let old = self.ground.load_full();
        let begun = Instant::now();
        let read = tokio::time::timeout(READ_MAX, self.read(shared, &mut reading.reader, &old.catalog));
        let mut fresh = read.await.map_err(|_| "the server does not answer".to_owned())??;
        let catalog = if fresh.same_as(&old.catalog) {
            Arc::clone(&old.catalog)
        } else {
            fresh.epoch = old.catalog.epoch + 1;
            Arc::new(fresh)
        };
        let rules = shared.rules.load_full();
        let read = begun.elapsed();
        if !Arc::ptr_eq(&catalog, &old.catalog) || rules.policy.epoch != old.policy.epoch {
            self.ground.store(Arc::new(resolve(rules, catalog, Some(old)).await?));
        }
        tracing::debug!(database = %self.database, ?read, resolved = ?begun.elapsed().saturating_sub(read), "catalog read");
        reading.done = reading.done.max(covers);
        self.known_changes.fetch_max(changes, Ordering::SeqCst);
        if let Some(change) = awaited.filter(|c| c.arrived.get() == Some(&true)) {
            self.rest(&change);
        }
        self.let_go();
        Ok(())
    }

    /// Waits until a change that was made elsewhere is here. False: not in time, or it can't be told.
    async fn arrives(self: &Arc<Self>, shared: &Shared, change: &Awaited) -> bool {
        let Some(elsewhere) = change.at.upgrade() else {
            return false;
        };
        // Either server may have stopped to answer.
        let arrival = tokio::time::timeout_at(change.until.into(), self.arrival(shared, &elsewhere)).await;
        let why = match arrival {
            Ok(Ok(())) => return true,
            Ok(Err(why)) => why,
            Err(_) => "not in time".to_owned(),
        };
        tracing::warn!(
            database = %self.database, server = %self.place, changed = %elsewhere.place,
            "a change of the catalog is not waited for any more: {why}"
        );
        false
    }

    /// Waits until what is committed elsewhere by now is here.
    async fn arrival(self: &Arc<Self>, shared: &Shared, elsewhere: &Arc<Self>) -> Result<(), String> {
        // What a standby has replayed, others may still await.
        let wanted = match elsewhere.position(shared).await? {
            Position::Written(bytes) | Position::Replayed(Some(bytes)) => bytes,
            Position::Replayed(None) => return Err("the server of the change is a standby by now".to_owned()),
        };
        let mut pause = Duration::from_millis(1);
        loop {
            match self.position(shared).await? {
                // The same server by another address: what is committed is there.
                Position::Written(_) => return Ok(()),
                Position::Replayed(Some(replayed)) if replayed >= wanted => return Ok(()),
                Position::Replayed(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// The awaited change is known, unless another one has been told meanwhile.
    fn rest(&self, known: &Arc<Awaited>) {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        if awaited.as_ref().is_some_and(|a| Arc::ptr_eq(a, known)) {
            *awaited = None;
            self.restless.store(0, std::sync::atomic::Ordering::SeqCst);
        }
    }

    /// Closes the connection when it has not been used for a while: a migration changes the catalog again at once, but afterwards a session of
    /// ours must not keep anybody from DROP DATABASE.
    fn let_go(self: &Arc<Self>) {
        let keeper = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(super::reader::IDLE).await;
            if let Some(keeper) = keeper.upgrade() {
                let reader = &mut keeper.reading.lock().await.reader;
                *reader = reader.take().filter(|r| !r.is_idle());
            }
        });
    }

    /// Where the server stands in its log.
    async fn position(self: &Arc<Self>, shared: &Shared) -> Result<Position, String> {
        let upstreams = shared.upstreams.load_full();
        let open = self.reading.lock().await.reader.take();
        let mut reader = match open.filter(|r| r.is_of(&upstreams)) {
            Some(open) => open,
            None => Reader::connect(&upstreams, &self.place, &self.database).await?,
        };
        let position = match reader.position().await {
            Ok(position) => position,
            // The connection may have been broken for a while.
            Err(_) => {
                reader = Reader::connect(&upstreams, &self.place, &self.database).await?;
                reader.position().await?
            }
        };
        self.reading.lock().await.reader.get_or_insert(reader);
        self.let_go();
        Ok(position)
    }

    /// Reads by the connection that is open, or by a new one where there is none, it is an other server's by now, or it is broken.
    async fn read(
        &self,
        shared: &Shared,
        reader: &mut Option<Reader>,
        before: &Arc<Catalog>,
    ) -> Result<Catalog, String> {
        let upstreams = shared.upstreams.load_full();
        if let Some(mut open) = reader.take().filter(|r| r.is_of(&upstreams))
            && let Ok(catalog) = open.read(Some(Arc::clone(before))).await
        {
            *reader = Some(open);
            return Ok(catalog);
        }
        let mut new = Reader::connect(&upstreams, &self.place, &self.database).await?;
        let catalog = new.read(Some(Arc::clone(before))).await?;
        *reader = Some(new);
        Ok(catalog)
    }

    /// Judges by another policy from now on.
    pub(super) async fn adopt(&self, rules: Arc<Rules>) -> Result<(), String> {
        let _reading = self.reading.lock().await;
        let old = self.ground.load_full();
        let catalog = Arc::clone(&old.catalog);
        self.ground.store(Arc::new(resolve(rules, catalog, Some(old)).await?));
        Ok(())
    }
}

/// Resolving parses every view: off the reactor, on a deep stack.
async fn resolve(rules: Arc<Rules>, catalog: Arc<Catalog>, before: Option<Arc<Ground>>) -> Result<Ground, String> {
    let ground = tokio::task::spawn_blocking({
        let before = before.clone();
        move || {
            Ground::new(
                Arc::clone(&rules.policy),
                catalog,
                rules.pack.clone(),
                before.as_deref(),
            )
        }
    })
    .await
    .map_err(|e| e.to_string())?;
    for column in &ground.unclassified {
        if before.as_ref().is_none_or(|b| !b.unclassified.contains(column)) {
            tracing::warn!(
                column,
                treatment = ?ground.policy.unclassified,
                "a column of a protected table is not classified: classify it, or list it under `plain`"
            );
        }
    }
    Ok(ground)
}

/// Reads a database's catalog on whichever server a session would go to.
///
/// # Errors
/// A sentence: no server can be reached, the login fails, or the answer can't be read.
pub async fn read_any(config: &Config, database: &str) -> Result<Catalog, String> {
    let upstreams = Upstreams::new(&config.upstream)?;
    let place = upstreams.pick().await?;
    Reader::connect(&Arc::new(upstreams), &place, database)
        .await?
        .read(None)
        .await
}

/// A server that is gone (its name leads elsewhere now) and on which no session is left needs no keeper. False: somebody needs it.
fn forget(shared: &Shared, keeper: &Arc<Keeper>) -> bool {
    let mut keepers = shared.keepers.lock().unwrap_or_else(PoisonError::into_inner);
    // The map's, and the caller's.
    if Arc::strong_count(keeper) > 2 {
        return false;
    }
    keepers.remove(&(keeper.place.clone(), keeper.database.clone()));
    true
}

/// Refreshes catalogs on a timer.
pub(super) fn watch(shared: &Arc<Shared>) {
    let timer = Arc::clone(shared);
    tokio::spawn(async move {
        let mut abstained = crate::guard::witness::abstentions();
        loop {
            tokio::time::sleep(Duration::from_secs(timer.config.refresh_seconds)).await;
            let now = crate::guard::witness::abstentions();
            if now != abstained {
                let counts: Vec<String> = now.iter().map(|(cause, n)| format!("{} {n}", cause.label())).collect();
                tracing::info!("the witness has abstained: {}", counts.join(", "));
                abstained = now;
            }
            for keeper in timer.keepers() {
                // It is being read, or its server has stopped to answer: the others don't wait for it.
                if keeper.reading.try_lock().is_err() {
                    continue;
                }
                let timer = Arc::clone(&timer);
                tokio::spawn(async move {
                    if let Err(why) = keeper.refresh(&timer).await
                        && !forget(&timer, &keeper)
                    {
                        tracing::error!(database = %keeper.database, server = %keeper.place, "catalog not refreshed, the old one stays: {why}");
                    }
                });
            }
        }
    });
}

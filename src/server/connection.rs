//! One client connection: bytes between client, session and server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::access::{self, Visitor};
use super::cancel::{self, Requests, Waiting};
use super::census::Seat;
use super::drain::{self, Stage, Watch};
use super::greeting::{self, Greeted, turn_away};
use super::inbox::{self, Inbox};
use super::keeper::Keeper;
use super::patience::{Expiry, Patience};
use super::rarely::Rarely;
use super::shared::Shared;
use super::upstream::{Opened, Place};
use crate::config::limits::Limits;
use crate::ledger::{ChargeRequest, Charged, LedgerError};
use crate::session::{self, Action, Activity, Session};
use crate::wire::{Refusal, message};

/// A text of more waits for its turn to be judged.
const LARGE_BYTES: usize = 128 * 1024;
/// What may wait to be taken by one side before no more is read for it.
const PENDING_BYTES_MAX: usize = 256 * 1024;
/// A session that has done nothing for so long gives back what it does not need.
const REST: Duration = Duration::from_secs(1);
/// What a cancel request to the server may take.
const CANCEL_MAX: Duration = Duration::from_secs(10);
/// A client that has been told the last words may go on sending for so long.
const LINGER: Duration = Duration::from_secs(2);

pub(super) fn failure(sqlstate: &'static str, rule: &'static str, message: String) -> Refusal {
    Refusal {
        sqlstate,
        rule,
        message,
        hint: "".into(),
        position: None,
        incident: false,
    }
}

/// Serves one connection to its end.
pub async fn run(shared: Arc<Shared>, tcp: TcpStream, peer: SocketAddr, mut seat: Seat, stage: Watch) {
    let _slower = tcp.set_nodelay(true);
    let limits = shared.live.load().limits.clone();
    if let Err(e) = keep_alive(&tcp, &limits) {
        tracing::debug!(%peer, "TCP keepalive: {e}");
    }
    let ends = Instant::now() + limits.startup;
    // What happens once in a session is boxed, here and below: it would be paid for as long as the session lives.
    let greeted = Box::pin(greeting::greet(&shared, tcp, peer, &mut seat));
    let greeted = tokio::select! {
        greeted = tokio::time::timeout_at(ends, greeted) => greeted,
        () = drain::too_late_to_greet(stage.clone()) => return,
    };
    let stopping = *stage.borrow() > Stage::Serving;
    match greeted {
        Ok(Ok(Some(greeted))) if stopping => Box::pin(turn_away(greeted.client, &drain::not_now())).await,
        Ok(Ok(Some(greeted))) => serve(shared, greeted, seat, ends, stage).await,
        Ok(Ok(None)) => {}
        Ok(Err(e)) => tracing::debug!(%peer, "start-up failed: {e}"),
        Err(_) => tracing::debug!(%peer, "start-up took too long"),
    }
}

/// Peers that are gone without a word are noticed: by probes where nothing is under way, by unacknowledged bytes otherwise.
fn keep_alive(tcp: &TcpStream, limits: &Limits) -> std::io::Result<()> {
    let socket = socket2::SockRef::from(tcp);
    if let Some(silence) = limits.keepalive {
        let probes = socket2::TcpKeepalive::new()
            .with_time(silence)
            .with_interval(limits.keepalive_interval)
            .with_retries(limits.keepalive_probes);
        socket.set_tcp_keepalive(&probes)?;
    }
    if limits.tcp_user_timeout.is_some() {
        socket.set_tcp_user_timeout(limits.tcp_user_timeout)?;
    }
    Ok(())
}

/// What comes back to the session from work done elsewhere.
enum Back {
    /// Boxed: a channel allocates room for many of these, which every idle session would pay for.
    Charged(Box<Result<Charged, LedgerError>>),
    /// Number of the question, and whether the catalog could be read.
    Refreshed(u64, bool),
    Cancelled,
}

/// What the session is to be asked for again.
#[derive(Default)]
struct Next {
    judge: bool,
    charged: Option<Charged>,
}

pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) session: Session,
    pub(super) id: u64,
    pub(super) visitor: Visitor,
    seat: Seat,
    startup_ends: Instant,
    place: Place,
    keeper: Option<Arc<Keeper>>,
    key: Option<Bytes>,
    requests: Arc<Requests>,
    /// Who waits for the cancel request at hand.
    cancelling: Waiting,
    from_server: Inbox,
    pub(super) to_client: BytesMut,
    pub(super) to_server: BytesMut,
    back: mpsc::UnboundedSender<Back>,
    closing: bool,
}

async fn serve(shared: Arc<Shared>, greeted: Greeted, mut seat: Seat, startup_ends: Instant, stage: Watch) {
    let Greeted {
        mut client,
        body,
        visitor,
    } = greeted;
    let startup = match session::parse_startup(&body) {
        Ok(startup) => startup,
        Err(refusal) => return Box::pin(turn_away(client, &refusal)).await,
    };
    let (login, database) = (startup.login(), startup.database());
    // Those of now: a reload counts for whoever comes after it.
    let limits = shared.live.load().limits.clone();
    let admitted =
        access::judge(&shared.gate.load().channel, &visitor, login, database).and_then(|()| seat.of(login, &limits));
    if let Err(refusal) = admitted {
        tracing::warn!(address = %visitor.address, login, database, "connection refused: {}", refusal.message);
        shared.audit_refused(&visitor, Some((login, database)), &refusal);
        return Box::pin(turn_away(client, &refusal)).await;
    }
    let mut nonce = [0_u8; 16];
    if getrandom::fill(&mut nonce).is_err() {
        return;
    }
    let settings = session::Settings {
        id: shared.session_id(),
        address: Some(visitor.address.ip().to_canonical()),
        token_key: shared.token_key,
        nonce: hex::encode(nonce),
        statement_bytes_max: limits.statement_bytes_max,
        message_bytes_max: limits.message_bytes_max,
        late_masking: shared.config.late_masking,
        require_auth: shared.live.load().upstream.require_auth.clone(),
    };
    let id = settings.id;
    let (mut session, startup) = Session::new(&startup, settings);
    let upstreams = shared.upstreams.load_full();
    let opened = match tokio::time::timeout_at(startup_ends, Box::pin(upstreams.open(&startup))).await {
        Err(_) => return Box::pin(turn_away(client, &Expiry::Startup.refusal())).await,
        Ok(Ok(opened)) => opened,
        Ok(Err(why)) => {
            let unreachable = failure("08001", "upstream", why.to_owned());
            let _gone = client.write_all(&message::error(&unreachable, "FATAL")).await;
            return;
        }
    };
    if visitor.shown.is_some() && visitor.shown == opened.certificate() {
        session.pass_channel_binding();
    }
    let Opened {
        stream: mut server,
        place,
        answer,
    } = opened;
    let (back, mut returns) = mpsc::unbounded_channel();
    let mut connection = Connection {
        shared,
        session,
        id,
        visitor,
        seat,
        startup_ends,
        place,
        keeper: None,
        key: None,
        requests: Arc::default(),
        cancelling: Waiting::new(),
        from_server: Inbox::new(answer),
        to_client: BytesMut::new(),
        to_server: BytesMut::new(),
        back,
        closing: false,
    };
    let mut from_client = Inbox::new(BytesMut::new());
    let actions = connection
        .session
        .server_bytes(&mut connection.from_server.bytes, Timestamp::now());
    connection.perform(actions).await;
    let (mut client_unflushed, mut server_unflushed, mut server_takes) = (false, false, true);
    let mut now = Instant::now();
    let mut patience = Patience::new(startup_ends, now);
    let requests = Arc::clone(&connection.requests);
    let mut alarm = std::pin::pin!(tokio::time::sleep_until(startup_ends));
    let mut reason = "the client closed the connection";
    let mut serving = *stage.borrow();
    let mut stage_changed = std::pin::pin!(next_stage(stage));
    let mut asked_to_cancel = std::pin::pin!(requests.next());
    let mut rarely = Rarely::new();
    let (mut cancel, mut alarmed, mut rest) = (None, false, Rest::No);
    while !connection.closing {
        match serving {
            Stage::Draining if connection.session.is_idle() && from_client.bytes.is_empty() => {
                connection.farewell();
                reason = "Menshen is shutting down";
                break;
            }
            Stage::Ending => {
                connection.farewell();
                reason = "Menshen is shutting down";
                Box::pin(connection.interrupt()).await;
                break;
            }
            Stage::Serving | Stage::Draining => {}
        }
        let activity = connection.session.activity();
        match rest {
            _ if !matches!(activity, Activity::Idle | Activity::IdleInTransaction) => rest = Rest::No,
            Rest::No => rest = Rest::At(now + REST),
            // Most sessions do nothing most of the time: that must cost next to nothing.
            Rest::At(at) if at <= now => {
                connection.session.rest();
                from_client.rest();
                connection.from_server.rest();
                inbox::rest(&mut connection.to_client);
                inbox::rest(&mut connection.to_server);
                rest = Rest::Resting;
            }
            Rest::At(_) | Rest::Resting => {}
        }
        // Each side is read while the other is written to: a client that sends and reads at the same time (a pipeline) would otherwise wait for
        // a server that waits for it. What a slow side has not taken bounds what is read for it.
        let to_server = server_takes && (server_unflushed || !connection.to_server.is_empty());
        let to_client = client_unflushed || !connection.to_client.is_empty();
        let reads_client = connection.session.wants_client() && connection.to_server.len() < PENDING_BYTES_MAX;
        let reads_server = connection.session.wants_server() && connection.to_client.len() < PENDING_BYTES_MAX;
        let half = reads_client && !from_client.bytes.is_empty();
        patience.observe(activity, half, to_client, now);
        let due = patience.next(&limits);
        let rests_at = match rest {
            Rest::At(at) => Some(at),
            Rest::No | Rest::Resting => None,
        };
        // The alarm may go off early: it is moved only where it would be late.
        if let Some(at) = due.map(|(at, _)| at).into_iter().chain(rests_at).min()
            && (at < alarm.deadline() || alarm.is_elapsed())
        {
            alarm.as_mut().reset(at);
            alarmed = false;
            rarely.ring();
        }
        let event = std::future::poll_fn(|context| {
            if to_server {
                let (outbox, unflushed) = (&mut connection.to_server, &mut server_unflushed);
                if let Poll::Ready(sent) = inbox::poll_send(&mut server, outbox, unflushed, context) {
                    return Poll::Ready(Event::ServerTook(sent));
                }
            }
            if to_client {
                let (outbox, unflushed) = (&mut connection.to_client, &mut client_unflushed);
                if let Poll::Ready(sent) = inbox::poll_send(&mut client, outbox, unflushed, context) {
                    return Poll::Ready(Event::ClientTook(sent));
                }
            }
            let mut told = None;
            if let Some(mut rare) = rarely.rung(context) {
                if let Poll::Ready(back) = returns.poll_recv(&mut rare) {
                    told = Some(Event::Back(back));
                } else if let Poll::Ready(seen) = stage_changed.as_mut().poll(&mut rare) {
                    serving = *seen.borrow();
                    stage_changed.set(next_stage(seen));
                    told = Some(Event::Stage);
                } else if cancel.is_none()
                    && let Poll::Ready(waiting) = asked_to_cancel.as_mut().poll(&mut rare)
                {
                    asked_to_cancel.set(requests.next());
                    cancel = Some(waiting);
                }
                alarmed |= !alarmed && alarm.as_mut().poll(&mut rare).is_ready();
            }
            if told.is_some() || cancel.is_some() {
                // The others have not been asked.
                rarely.ring();
            }
            if let Some(event) = told {
                return Poll::Ready(event);
            }
            if reads_server && let Poll::Ready(read) = connection.from_server.poll_fill(&mut server, context) {
                return Poll::Ready(Event::FromServer(read));
            }
            if reads_client && let Poll::Ready(read) = from_client.poll_fill(&mut client, context) {
                return Poll::Ready(Event::FromClient(read));
            }
            // Behind what the client has sent before.
            if let Some(waiting) = cancel.take() {
                return Poll::Ready(Event::Cancel(waiting));
            }
            if std::mem::take(&mut alarmed) {
                return Poll::Ready(Event::Alarm);
            }
            Poll::Pending
        })
        .await;
        now = Instant::now();
        let actions = match event {
            Event::ServerTook(Ok(())) | Event::Stage => continue,
            Event::ServerTook(Err(_)) => {
                // It has closed. What it said before that (57P01 …) is still to be read.
                (server_takes, server_unflushed) = (false, false);
                connection.to_server.clear();
                continue;
            }
            Event::ClientTook(Ok(())) => {
                patience.client_took();
                continue;
            }
            Event::ClientTook(Err(_)) => break,
            Event::Back(Some(Back::Charged(result))) => connection.charged(*result),
            Event::Back(Some(Back::Refreshed(number, read))) => {
                connection.session.refreshed(number, read, Timestamp::now())
            }
            Event::Back(Some(Back::Cancelled)) => connection.session.cancelled(Timestamp::now()),
            Event::Back(None) => break,
            Event::FromServer(Ok(0) | Err(_)) if connection.session.is_leaving() => break,
            Event::FromServer(Ok(0) | Err(_)) => {
                let lost = failure(
                    "08006",
                    "upstream-lost",
                    "the connection to the database server was lost".to_owned(),
                );
                connection.to_client.extend_from_slice(&message::error(&lost, "FATAL"));
                reason = "the connection to the database server was lost";
                break;
            }
            Event::FromServer(Ok(_)) => connection
                .session
                .server_bytes(&mut connection.from_server.bytes, Timestamp::now()),
            Event::FromClient(Ok(0) | Err(_)) => break,
            Event::FromClient(Ok(_)) => {
                let before = from_client.bytes.len();
                let actions = connection
                    .session
                    .client_bytes(&mut from_client.bytes, Timestamp::now());
                patience.client_sent(from_client.bytes.len() < before, now);
                actions
            }
            Event::Cancel(waiting) => {
                connection.cancelling = waiting;
                connection.session.cancel_asked(Timestamp::now())
            }
            Event::Alarm => match due {
                Some((at, expiry)) if at <= now => connection.late(expiry, &mut patience),
                // It is set anew.
                Some(_) | None => continue,
            },
        };
        if let Some(actions) = connection.relay(actions) {
            connection.perform(actions).await;
        }
        connection.cancelling.clear();
        // What the sockets take at once needs no further round: mostly all of it.
        if server_takes && !connection.to_server.is_empty() {
            let (outbox, unflushed) = (&mut connection.to_server, &mut server_unflushed);
            if let Some(Err(_)) = at_once(|context| inbox::poll_send(&mut server, outbox, unflushed, context)).await {
                (server_takes, server_unflushed) = (false, false);
                connection.to_server.clear();
            }
        }
        if !connection.to_client.is_empty() {
            let (outbox, unflushed) = (&mut connection.to_client, &mut client_unflushed);
            match at_once(|context| inbox::poll_send(&mut client, outbox, unflushed, context)).await {
                Some(Ok(())) => patience.client_took(),
                Some(Err(_)) => break,
                None => {}
            }
        }
    }
    if let Some(key) = &connection.key {
        connection.shared.cancels.remove(key);
    }
    requests.close();
    let last = connection.session.end(reason);
    connection.perform(last).await;
    // What is left for either side, within reason.
    let last = async {
        let _late = server.write_all(&connection.to_server).await;
        let _late = server.flush().await;
        let _late = client.write_all(&connection.to_client).await;
        let _late = client.flush().await;
    };
    let _late = tokio::time::timeout(Duration::from_secs(2), last).await;
    let _closed = tokio::time::timeout(Duration::from_secs(1), client.shutdown()).await;
    // What the client is still sending is read and dropped: the kernel would answer it with a reset, which takes back the last words.
    if connection.closing {
        let _late = tokio::time::timeout(LINGER, tokio::io::copy(&mut client, &mut tokio::io::sink())).await;
    }
    let _closed = tokio::time::timeout(Duration::from_secs(1), server.shutdown()).await;
}

/// Whether an idle session has given back what it does not need.
enum Rest {
    No,
    At(Instant),
    Resting,
}

/// What ends a round.
enum Event {
    ServerTook(std::io::Result<()>),
    ClientTook(std::io::Result<()>),
    FromServer(std::io::Result<usize>),
    FromClient(std::io::Result<usize>),
    Back(Option<Back>),
    Stage,
    Cancel(Waiting),
    Alarm,
}

/// Waits until the next stage of Menshen's own life begins.
async fn next_stage(mut stage: Watch) -> Watch {
    if stage.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    stage
}

/// What comes of asking once; `None` where it would have to wait.
async fn at_once<T>(mut ask: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    std::future::poll_fn(|context| {
        Poll::Ready(match ask(context) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        })
    })
    .await
}

impl Connection {
    /// The last words, when Menshen ends.
    fn farewell(&mut self) {
        let words = if self.session.is_starting() {
            drain::not_now()
        } else {
            drain::farewell()
        };
        self.to_client.extend_from_slice(&message::error(&words, "FATAL"));
    }

    /// The server goes on with a statement until it has something to send; it is told to stop.
    async fn interrupt(&self) {
        if let Some(key) = self.key.as_ref().filter(|_| !self.session.is_idle()) {
            let cancelled = cancel::send(&self.shared, &self.place, key);
            let _late = tokio::time::timeout(Duration::from_secs(1), cancelled).await;
        }
    }

    /// Something has lasted too long.
    fn late(&mut self, expiry: Expiry, patience: &mut Patience) -> Vec<Action> {
        tracing::info!(session = self.id, ?expiry, "timed out");
        if expiry == Expiry::Statement {
            patience.cancelled(Instant::now());
            return self.session.expire();
        }
        self.session.shed(&expiry.refusal())
    }

    /// Passes bytes on; gives back the actions where there are others among them.
    fn relay(&mut self, mut actions: Vec<Action>) -> Option<Vec<Action>> {
        let passes = |a: &Action| matches!(a, Action::ToClient(_) | Action::ToServer(_));
        if !actions.iter().all(passes) {
            return Some(actions);
        }
        for action in actions.drain(..) {
            if let Action::ToClient(bytes) = action {
                self.to_client.extend_from_slice(&bytes);
            } else if let Action::ToServer(bytes) = action {
                self.to_server.extend_from_slice(&bytes);
            }
        }
        self.session.give_back(actions);
        None
    }

    async fn perform(&mut self, mut actions: Vec<Action>) {
        let mut judge = false;
        loop {
            let next = self.perform_once(actions).await;
            judge |= next.judge;
            actions = match next.charged {
                Some(charged) => self.charged(Ok(charged)),
                None if std::mem::take(&mut judge) => Box::pin(self.judge_away()).await,
                None => break,
            };
        }
    }

    fn charged(&mut self, result: Result<Charged, LedgerError>) -> Vec<Action> {
        let now = Timestamp::now();
        self.session.charged(result, &mut self.from_server.bytes, now)
    }

    /// Judges on a thread where nobody waits for it. Like any other judging it goes before all else that the session has to do.
    async fn judge_away(&mut self) -> Vec<Action> {
        let large = self.session.waits_with() > LARGE_BYTES;
        let mut session = std::mem::replace(&mut self.session, Session::elsewhere(self.id));
        let judge = move || {
            let actions = session.judge_away(Timestamp::now());
            (session, actions)
        };
        let judged = if large {
            self.shared.large_texts.run(judge).await.ok_or("it panicked".to_owned())
        } else {
            tokio::task::spawn_blocking(judge).await.map_err(|e| e.to_string())
        };
        match judged {
            Ok((session, actions)) => {
                self.session = session;
                actions
            }
            Err(e) => {
                tracing::error!(session = self.id, "judging ended by an error of Menshen itself: {e}");
                let words = "Menshen could not judge this statement; its log has the reason";
                self.fatal(&failure("XX000", "judging", words.to_owned()));
                Vec::new()
            }
        }
    }

    /// Does what is to be done, but for what the session must be asked for again.
    async fn perform_once(&mut self, mut actions: Vec<Action>) -> Next {
        let mut next = Next::default();
        for action in actions.drain(..) {
            match action {
                Action::ToClient(bytes) => self.to_client.extend_from_slice(&bytes),
                Action::ToServer(bytes) => self.to_server.extend_from_slice(&bytes),
                Action::Charge(request) => {
                    next.charged = self.charge(*request);
                }
                Action::CatalogChanged => {
                    if let Some(keeper) = &self.keeper {
                        keeper.changed(&self.shared);
                    }
                }
                Action::RefreshCatalog(number) => self.refresh(number),
                Action::CancelUpstream => self.cancel(),
                Action::JudgeAway => next.judge = true,
                Action::Admitted => {
                    self.seat.authenticated();
                    let ends = self.startup_ends;
                    match tokio::time::timeout_at(ends, Box::pin(self.find_keeper())).await {
                        Ok(true) => {}
                        Ok(false) => return Next::default(),
                        Err(_) => {
                            tracing::error!(session = self.id, "the catalog was not read in time");
                            self.fatal(&Expiry::Startup.refusal());
                            return Next::default();
                        }
                    }
                }
                Action::Key(key) => {
                    self.shared.cancels.add(key.clone(), Arc::clone(&self.requests));
                    self.key = Some(key);
                }
                Action::Note(note) => {
                    if !self.note(*note) {
                        return Next::default();
                    }
                }
                Action::Alert(alert) => self
                    .shared
                    .raise(&alert.kind, alert.account, alert.message, alert.details),
                Action::Close => self.closing = true,
            }
        }
        self.session.give_back(actions);
        if self.closing { Next::default() } else { next }
    }

    async fn find_keeper(&mut self) -> bool {
        match Keeper::of(&self.shared, &self.place, self.session.database()).await {
            Ok(keeper) => {
                self.session.set_judge(Arc::clone(&keeper) as Arc<dyn session::Judge>);
                self.keeper = Some(keeper);
                true
            }
            Err(why) => {
                tracing::error!(session = self.id, database = self.session.database(), "{why}");
                let words = "Menshen cannot read this database's catalog; its log has the reason";
                self.fatal(&failure("08006", "catalog", words.to_owned()));
                false
            }
        }
    }

    pub(super) fn fatal(&mut self, refusal: &Refusal) {
        self.to_client.extend_from_slice(&message::error(refusal, "FATAL"));
        self.closing = true;
    }

    /// Charges rows: at once where they show nobody new, else elsewhere, which answers by [`Back`].
    fn charge(&self, request: ChargeRequest) -> Option<Charged> {
        let free = || Charged {
            released: request.shown.len(),
            crossings: Vec::new(),
            stopped: None,
            new_people: Vec::new(),
            estimated: 0,
        };
        // Rows that are masked here and show nobody.
        if request.shown.kinds().is_empty() {
            return Some(free());
        }
        let Some(pack) = self.shared.rules.load().pack.clone() else {
            // No pack: nothing has a category, and no limit could be written.
            return Some(free());
        };
        if let Some(charged) = self.shared.ledger.charge_known(&pack, &request) {
            return Some(charged);
        }
        let (shared, back) = (Arc::clone(&self.shared), self.back.clone());
        tokio::task::spawn_blocking(move || {
            let result = shared.ledger.charge(&pack, &request);
            let _gone = back.send(Back::Charged(Box::new(result)));
        });
        None
    }

    fn refresh(&self, number: u64) {
        let (shared, back, keeper) = (Arc::clone(&self.shared), self.back.clone(), self.keeper.clone());
        tokio::spawn(async move {
            let mut read = true;
            if let Some(keeper) = keeper
                && let Err(e) = keeper.refresh(&shared).await
            {
                tracing::error!("catalog not refreshed, the old one stays: {e}");
                read = false;
            }
            let _gone = back.send(Back::Refreshed(number, read));
        });
    }

    fn cancel(&mut self) {
        let waiting = std::mem::take(&mut self.cancelling);
        let (shared, back, key) = (Arc::clone(&self.shared), self.back.clone(), self.key.clone());
        let place = self.place.clone();
        tokio::spawn(async move {
            if let Some(key) = key {
                // The session waits for it.
                match tokio::time::timeout(CANCEL_MAX, cancel::send(&shared, &place, &key)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(e)) => tracing::warn!("cancel request failed: {e}"),
                    Err(_) => tracing::warn!("cancel request failed: the server did not take it in time"),
                }
            }
            drop(waiting);
            let _gone = back.send(Back::Cancelled);
        });
    }
}

//! One connection as a state machine without I/O: it takes bytes and answers with what to send where. `now` is an argument.
//!
//! The way of a message: `client.rs` takes it, `judging.rs` has its text judged (`freshness.rs`: what was judged before, again), what is sent upstream leaves an entry in
//! the queue of replies owed (`owed.rs`); `replies.rs` takes the server's messages against that queue, `rows.rs` has rows
//! charged and releases them. Client messages wait while something must be known first ([`Hold`]).
//!
//! What is not understood closes the session (08P01): a reply that nobody is owed, a message out of turn.

mod call;
mod cancel;
mod client;
mod decisions;
pub mod expiry;
mod freshness;
mod judging;
mod late;
mod learn;
pub mod notes;
mod owed;
mod pass;
mod plans;
mod replies;
mod rows;
mod standpoint;
mod startup;
mod turns;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;

use crate::alert::Alert;
use crate::guard::{self, Ground};
use crate::ledger::{ChargeRequest, Charged, LedgerError};
use crate::mask::TokenSettings;
use crate::meter::Held;
use crate::principal::Declared;
use crate::wire::authentication::{RequireAuth, Watcher};
use crate::wire::frame::{self, Frame};
use crate::wire::{Refusal, message};
pub use expiry::Activity;
pub use notes::Note;
use owed::{Cursor, Owed, Portal, Prepared};
pub use startup::parse_startup;

/// Client messages that may wait here before no more are read, and their bytes.
const WAITING_MAX: usize = 64;
const WAITING_BYTES_MAX: usize = 256 * 1024;
/// Replies that may be owed before no more is taken from the client: where the server has been told to send them, and where not yet. It keeps
/// back at most 8 KiB of replies, fewer than 1700, and errors not at all: however long a pipeline is, these become fewer without the
/// client's help.
const OWED_MAX: usize = 256;
const OWED_IN_PIPELINE_MAX: usize = 2048;

/// By name. Names are a client's own, and so is the session that a bad choice of them would slow down.
/// Whether two names are one. Most have no letter, and are compared as often as there are messages.
fn same_name(one: &str, two: &str) -> bool {
    one.len() == two.len() && (one.is_empty() || one == two)
}

type Names<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// What a session is told about itself.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Number of the session, for logs.
    pub id: u64,
    /// Where the client is.
    pub address: Option<IpAddr>,
    /// The token mask's key.
    pub token_key: [u8; 32],
    /// Random hex (32 digits) for the names of the key settings.
    pub nonce: String,
    /// Most bytes of one statement.
    pub statement_bytes_max: usize,
    /// Most bytes of one message from the client.
    pub message_bytes_max: usize,
    /// How the server may ask who is there.
    pub require_auth: RequireAuth,
    /// Whether columns that are only output may be masked as they pass.
    pub late_masking: bool,
}

/// The guard behind a seam, so that tests can stand in for it.
pub trait Judge: Send + Sync {
    /// The newest policy and catalog of this database.
    fn ground(&self) -> Arc<Ground>;

    /// Whether this is still the newest. It is asked for each Bind: a judge that is shared by many has a way that shares nothing.
    fn is_ground(&self, ground: &Arc<Ground>) -> bool {
        Arc::ptr_eq(&self.ground(), ground)
    }

    /// Whether a session has changed the catalog since it was last read.
    fn is_behind(&self) -> bool {
        false
    }

    /// Whether judging what is not kept takes so long that it must not be done where other sessions wait: then [`Action::JudgeAway`] asks for
    /// [`Session::judge_away`].
    fn judges_away(&self) -> bool {
        false
    }

    /// The plan that is kept for a text in a context, if one is.
    fn kept(&self, request: &guard::Request<'_>, number: guard::ContextNumber) -> Option<guard::Plan> {
        let _none_kept = (request, number);
        None
    }

    /// The number of a context on this judge's own ground, where it keeps plans.
    fn number(&self, context: &guard::Context) -> Option<guard::ContextNumber> {
        let _none_kept = context;
        None
    }

    /// Judges a text in a context; `number` is that of the context, where plans may be kept for it.
    ///
    /// # Errors
    /// As [`guard::examine`].
    fn examine(
        &self,
        ground: &Ground,
        request: &guard::Request<'_>,
        number: Option<guard::ContextNumber>,
    ) -> Result<guard::Plan, guard::Verdict> {
        let _none_kept = number;
        guard::examine(ground, request)
    }
}

/// What the shell must do, in order. What is rare is boxed: of what is common there may be thousands at a time.
#[derive(Debug)]
pub enum Action {
    /// Send to the client.
    ToClient(Bytes),
    /// Send to the server.
    ToServer(Bytes),
    /// Charge the ledger and answer with [`Session::charged`]. At most one is open.
    Charge(Box<ChargeRequest>),
    /// A change of the catalog has been committed: no session may judge by the old one.
    CatalogChanged,
    /// Read the catalog anew and answer with [`Session::refreshed`] and this number.
    RefreshCatalog(u64),
    /// Call [`Session::judge_away`], where it may take long.
    JudgeAway,
    /// Send a CancelRequest for this session's backend and answer with [`Session::cancelled`].
    CancelUpstream,
    /// The server has let the login into the database: set the judge (`Session::set_judge`) before the next message.
    Admitted,
    /// BackendKeyData's body, for the registry of cancellations.
    Key(Bytes),
    /// For the audit.
    Note(Box<Note>),
    /// For people.
    Alert(Box<Alert>),
    /// Close both connections after what was sent.
    Close,
}

/// Why client messages wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// For the answer to our own probe of settings.
    Probe,
    /// For a fresh catalog.
    Catalog,
    /// For the cancel request to be over.
    Cancel,
    /// To be judged elsewhere.
    Judge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Until the first ReadyForQuery.
    Startup,
    Ready,
    Closed,
}

/// What the server said about the settings that decisions depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    search_path: Vec<String>,
    current_user: String,
    declared: Declared,
}

/// One connection.
pub struct Session {
    settings: Settings,
    judge: Option<Arc<dyn Judge>>,
    phase: Phase,
    login: String,
    database: String,
    /// Version of the protocol that both sides speak.
    version: i32,
    /// What the client is still to be told of version and options.
    negotiated: Option<startup::Negotiated>,
    /// The server has named the version that it speaks.
    server_negotiated: bool,
    token: TokenSettings,
    /// Transaction status of the last ReadyForQuery.
    status: u8,
    client: VecDeque<Frame>,
    /// What a query string has been taken apart into ([`turns`]): it goes before what the client sends next.
    turns: VecDeque<turns::Turn>,
    /// The message at hand is one of them: where its statement begins in the string, in characters.
    turn: Option<u32>,
    server: VecDeque<Frame>,
    owed: VecDeque<Owed>,
    hold: Option<Hold>,
    /// Schema and name of the function that the FunctionCall at the front names by number; `None` inside: there is none.
    function: Option<call::Named>,
    known: Option<Arc<Known>>,
    standpoint: Option<standpoint::Standpoint>,
    decisions: decisions::Decisions,
    /// It is where judging may take long.
    is_away: bool,
    stale: bool,
    /// In the open transaction something may have changed settings.
    transaction_changed: bool,
    /// In the open transaction something wrote whose errors are scrubbed: what is deferred to its end must be, too.
    transaction_scrub: bool,
    /// In the open transaction the catalog may have been changed.
    transaction_ddl: bool,
    /// Policy and catalog as the open transaction sees them, where it has changed the catalog.
    own_ground: Option<Arc<Ground>>,
    /// The open transaction has changed the catalog since `own_ground` was read.
    own_stale: bool,
    /// Number of catalogs read by this session.
    own_catalogs: u64,
    /// The shared catalog is older than this session's own DDL.
    catalog_behind: bool,
    /// The catalog has been asked for on behalf of the message at the front, and whether it could be read: changes that others commit from
    /// then on do not make it wait again, or it might wait for ever.
    refreshed_for_front: Option<bool>,
    /// When the catalog was last read for a column that it did not have.
    looked_again: Option<Timestamp>,
    /// Number of the reading of the catalog that is waited for: answers to others are too late.
    refresh: u64,
    /// Cancel requests of ours that are on their way: what is sent before they are over could be hit by them.
    cancels: u32,
    /// The client has asked to cancel the message at the front, which has not been sent.
    cancel_front: bool,
    statements: Names<String, Arc<Prepared>>,
    portals: Names<String, Portal>,
    /// Cursors declared by SQL. One that is gone on the server may still be here: FETCH of it fails there.
    cursors: Names<String, Cursor>,
    /// Something has run since the server was last ready that may have changed client_encoding: it says so before it is ready again.
    encoding_unsure: bool,
    /// The portal without a name holds values that came clear from the server: it has been run to its end.
    late_portal: bool,
    /// A Bind at the front waits for what the client does with its portal.
    awaits_execute: bool,
    /// It has bound a portal whose masked columns would have come clear, and not had it run to its end at once.
    holds_portals: bool,
    /// RowDescriptions as the server gave them, by number of the prepared statement.
    shapes: Names<u64, owed::Shape>,
    /// How many were left when those that nothing can name were last forgotten.
    shapes_kept: usize,
    next_prepared: u64,
    /// Extended-protocol messages went upstream since the last Sync.
    pipeline: bool,
    /// Executes in the open pipeline.
    pipeline_runs: u32,
    /// Something in the open pipeline wrote.
    pipeline_wrote: bool,
    /// The server ignores what comes until a Sync.
    skipping: bool,
    /// The client's pipeline was refused here; nothing of it went upstream. Its Sync is answered here.
    skipping_here: bool,
    flushed: bool,
    /// The server takes COPY data, and ignores Sync: the client has not ended it yet.
    copying_in: bool,
    /// CopyDone or CopyFail went upstream since the last Execute or Query.
    copy_ended: bool,
    encoding: String,
    /// The database's own encoding is UTF8.
    server_utf8: bool,
    standard_strings: bool,
    /// Rows that wait for the ledger.
    batch: Option<Held>,
    charging: bool,
    authentication: Watcher,
    /// The client has said Terminate.
    leaving: bool,
    /// The client may bind SCRAM to its TLS channel.
    binding_passes: bool,
    /// The server has offered to bind SCRAM to the channel, and the client has not heard of it.
    binding_withheld: bool,
    /// Statements that have ended.
    ended: u64,
    /// The running statement is being cancelled because it has had its time.
    expired: bool,
    out: Vec<Action>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the keys, names of key settings, or anything a client sent.
        f.debug_struct("Session")
            .field("id", &self.settings.id)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Client bytes: consumes whole messages from the buffer.
    pub fn client_bytes(&mut self, bytes: &mut BytesMut, now: Timestamp) -> Vec<Action> {
        // Nobody who has not logged in is waited for with that much.
        let most = match self.phase {
            Phase::Startup => frame::AUTHENTICATION_BYTES_MAX,
            Phase::Ready | Phase::Closed => self.settings.message_bytes_max,
        };
        loop {
            match frame::next(bytes, most) {
                Ok(Some(frame)) => self.client.push_back(frame),
                Ok(None) => break,
                Err(bad) => {
                    self.bad_length(&bad);
                    break;
                }
            }
        }
        self.pump(now);
        std::mem::take(&mut self.out)
    }

    /// Server bytes: consumes whole messages from the buffer.
    pub fn server_bytes(&mut self, bytes: &mut BytesMut, now: Timestamp) -> Vec<Action> {
        self.take_server_bytes(bytes, now);
        self.pump(now);
        std::mem::take(&mut self.out)
    }

    fn take_server_bytes(&mut self, bytes: &mut BytesMut, now: Timestamp) {
        // What comes behind rows that are being charged stays where it is.
        while !self.charging {
            if let Some(frame) = self.server.pop_front() {
                self.server_frame(frame, now);
                continue;
            }
            if let Some(messages) = self.messages_that_pass(bytes) {
                self.send_client(messages);
            }
            if let Some(rows) = self.rows_that_pass(bytes) {
                self.send_client(rows);
            }
            if self.rows_that_count(bytes, now) {
                continue;
            }
            match frame::next(bytes, frame::BACKEND_BYTES_MAX) {
                Ok(Some(frame)) => self.server_frame(frame, now),
                Ok(None) => break,
                Err(bad) => {
                    self.violation(&bad.to_string());
                    break;
                }
            }
        }
        self.charge_batch(now);
    }

    /// The ledger's answer to [`Action::Charge`]; then the server bytes that had to wait for it are taken.
    pub fn charged(
        &mut self,
        result: Result<Charged, LedgerError>,
        bytes: &mut BytesMut,
        now: Timestamp,
    ) -> Vec<Action> {
        self.charging = false;
        if self.phase == Phase::Closed {
            // It has ended meanwhile: what was charged is not released.
            self.batch = None;
            return std::mem::take(&mut self.out);
        }
        self.release_batch(result, now);
        self.take_server_bytes(bytes, now);
        self.pump(now);
        std::mem::take(&mut self.out)
    }

    /// Bytes of the largest message that waits to be judged.
    #[must_use]
    pub fn waits_with(&self) -> usize {
        let turns = self.turns.iter().map(turns::Turn::len);
        turns
            .chain(self.client.iter().map(|f| f.bytes.len()))
            .max()
            .unwrap_or(0)
    }

    /// Judges what waits for it, as [`Action::JudgeAway`] asks. Until it is back nothing else must be done with the session.
    pub fn judge_away(&mut self, now: Timestamp) -> Vec<Action> {
        if self.hold == Some(Hold::Judge) {
            self.hold = None;
        }
        self.is_away = true;
        self.pump(now);
        self.is_away = false;
        std::mem::take(&mut self.out)
    }

    /// The catalog has been read anew, or could not be, as [`Action::RefreshCatalog`] of this number asked for.
    pub fn refreshed(&mut self, number: u64, read: bool, now: Timestamp) -> Vec<Action> {
        if number != self.refresh {
            return Vec::new();
        }
        if self.hold == Some(Hold::Catalog) {
            self.hold = None;
        }
        self.refreshed_for_front = Some(read);
        self.catalog_behind &= !read;
        self.pump(now);
        std::mem::take(&mut self.out)
    }

    /// The cancel request has been delivered (or could not be).
    pub fn cancelled(&mut self, now: Timestamp) -> Vec<Action> {
        self.cancels = self.cancels.saturating_sub(1);
        if self.hold == Some(Hold::Cancel) && self.cancels == 0 {
            self.hold = None;
        }
        self.pump(now);
        std::mem::take(&mut self.out)
    }

    /// Takes back the list of what has been done, to be filled anew.
    pub fn give_back(&mut self, mut done: Vec<Action>) {
        if self.out.is_empty() && self.out.capacity() < done.capacity() {
            done.clear();
            self.out = done;
        }
    }

    /// Whether more client bytes may be read.
    #[must_use]
    pub fn wants_client(&self) -> bool {
        self.phase != Phase::Closed && !self.leaving && self.has_room(0, 0)
    }

    /// Whether more client messages are read while this one, which has been taken, waits.
    fn has_room_for(&self, taken: &Frame) -> bool {
        self.has_room(1, taken.bytes.len())
    }

    /// Whether fewer messages and bytes wait than may, with some more.
    fn has_room(&self, messages: usize, bytes: usize) -> bool {
        let waiting = || self.client.iter().map(|f| f.bytes.len()).sum::<usize>();
        self.client.len() + messages < WAITING_MAX && waiting() + bytes < WAITING_BYTES_MAX
    }

    /// Whether more server bytes may be read.
    #[must_use]
    pub fn wants_server(&self) -> bool {
        !self.charging && self.phase != Phase::Closed
    }

    /// Whether the client has said Terminate: the server closes when it has answered.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// The connection is over for a reason outside of the session: the last note, unless it has been made. Nothing that is said after
    /// the client's Terminate needs one.
    pub fn end(&mut self, reason: &str) -> Vec<Action> {
        self.close((!self.leaving).then(|| reason.to_owned()));
        std::mem::take(&mut self.out)
    }

    /// Whether the session is between transactions and owes nothing: a good moment to end it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let waits =
            self.charging || self.hold.is_some() || self.pipeline || self.batch.is_some() || !self.turns.is_empty();
        self.status == b'I' && self.owed.is_empty() && self.client.is_empty() && self.server.is_empty() && !waits
    }

    /// Whether the server has not let it in yet.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        self.phase == Phase::Startup
    }

    /// Gives the session its judge. Without one every text is refused.
    pub fn set_judge(&mut self, judge: Arc<dyn Judge>) {
        self.judge = Some(judge);
    }

    /// The login of the StartupMessage.
    #[must_use]
    pub fn login(&self) -> &str {
        &self.login
    }

    /// The database of the StartupMessage.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Takes client messages from the front as long as nothing has to be waited for.
    fn pump(&mut self, now: Timestamp) {
        self.take_messages(now);
        // Whoever has said Terminate and has all answers is gone, whether or not the server closes.
        if self.leaving && self.owed.is_empty() && self.hold.is_none() && !self.charging {
            self.close(None);
        }
    }

    fn take_messages(&mut self, now: Timestamp) {
        while self.hold.is_none() && self.cancels == 0 && self.phase != Phase::Closed && !self.owes_much() {
            if std::mem::take(&mut self.cancel_front) {
                self.cancel_waiting();
            }
            self.follow_policy();
            self.awaits_execute = false;
            if !self.turns.is_empty() {
                if !self.take_turn(now) {
                    return;
                }
                continue;
            }
            let Some(frame) = self.client.pop_front() else { return };
            if self.must_wait(&frame) {
                self.client.push_front(frame);
                return;
            }
            if let Taken::Later(frame) = self.client_frame(frame, now) {
                self.client.push_front(frame);
                return;
            }
            self.refreshed_for_front = None;
        }
    }

    fn owes_much(&self) -> bool {
        let flushes = |o: &Owed| matches!(o, Owed::Query { .. } | Owed::Sync { .. });
        self.owed.len() >= OWED_MAX && (self.owed.len() >= OWED_IN_PIPELINE_MAX || self.owed.iter().any(flushes))
    }

    /// Asks for the catalog on behalf of the message at the front.
    fn refresh_catalog(&mut self) {
        self.refresh += 1;
        self.out.push(Action::RefreshCatalog(self.refresh));
        self.hold = Some(Hold::Catalog);
    }

    fn send_client(&mut self, bytes: Bytes) {
        self.out.push(Action::ToClient(bytes));
    }

    fn send_server(&mut self, bytes: Bytes) {
        self.out.push(Action::ToServer(bytes));
    }

    fn note(&mut self, note: Note) {
        self.out.push(Action::Note(Box::new(note)));
    }

    /// A message of the client claims a length that it may not have.
    fn bad_length(&mut self, bad: &frame::BadLength) {
        let most = self.settings.message_bytes_max;
        let is_postgres_own = |length: i64| (0..=0x3fff_ffff).contains(&length);
        if self.phase != Phase::Ready || bad.length < 4 || !is_postgres_own(bad.length) {
            return self.violation(&bad.to_string());
        }
        let refusal = Refusal {
            sqlstate: "54000",
            ..Refusal::unsupported(
                "message-bytes",
                format!("a message of {} bytes is longer than {most} bytes", bad.length),
                "send it in smaller parts, or have message_bytes_max raised in [limits] of Menshen's configuration; the connection is closed",
            )
        };
        self.note_refused(&refusal);
        self.send_client(message::error(&refusal, "FATAL"));
        self.close(Some(refusal.message));
    }

    /// A message that the protocol does not allow here. Fail closed.
    fn violation(&mut self, what: &str) {
        if self.phase == Phase::Closed {
            return;
        }
        let refusal = Refusal {
            sqlstate: "08P01",
            rule: "protocol",
            message: format!("protocol violation: {what}"),
            hint: "the connection is closed".into(),
            position: None,
            incident: false,
        };
        self.send_client(message::error(&refusal, "FATAL"));
        self.close(Some(what.to_owned()));
    }

    fn close(&mut self, reason: Option<String>) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.tell_repeated(true);
            self.note(Note::Closed { reason });
            self.out.push(Action::Close);
        }
    }
}

/// Whether a client message is done with.
enum Taken {
    Done,
    /// It must wait for something; here it is back.
    Later(Frame),
}

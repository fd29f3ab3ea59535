//! The two directions of the wire against the session, which does no I/O. `client`: bytes that a client may send, before a server that answers
//! as PostgreSQL would. `server`: bytes that a server may send, after a client that asks for people. Both stand behind a start-up that went well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use jiff::Timestamp;
use menshen::guard::{self, ContextNumber, Ground, Plan, Request, Verdict};
use menshen::ledger::Charged;
use menshen::session::{self, Action, Judge, Session, Settings};
use menshen::wire::frame;

/// What came of an input.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Messages that went to the server.
    pub upstream: usize,
    /// Messages that went to the client.
    pub down: usize,
    /// Rows among them.
    pub rows: usize,
    /// The session ended.
    pub closed: bool,
}

/// The guard, which remembers the texts that it has planned and how many statements each has.
struct Remembering {
    ground: Arc<Ground>,
    planned: Mutex<BTreeMap<String, usize>>,
}

impl Judge for Remembering {
    fn ground(&self) -> Arc<Ground> {
        Arc::clone(&self.ground)
    }

    fn examine(&self, ground: &Ground, request: &Request<'_>, _: Option<ContextNumber>) -> Result<Plan, Verdict> {
        let plan = guard::examine(ground, request)?;
        let mut planned = self.planned.lock().expect("nobody panics with it");
        planned.insert(plan.text.to_string(), plan.statements.len());
        Ok(plan)
    }
}

/// A session, its judge, and a server that answers what it is sent.
struct Conversation {
    session: Session,
    judge: Arc<Remembering>,
    to_server: BytesMut,
    answers: BytesMut,
    to_client: BytesMut,
    /// An error has been answered: nothing is until Sync.
    skipping: bool,
    /// Rows that the ledger was asked for and has not answered.
    charging: Option<usize>,
    charged: usize,
    outcome: Outcome,
}

impl Conversation {
    fn started(login: &str) -> Self {
        let mut body = (3_i32 << 16 | 2).to_be_bytes().to_vec();
        let options = "-c menshen.purpose=customer_service -c menshen.case=CS-004711";
        for (name, value) in [("user", login), ("database", "shop"), ("options", options)] {
            body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        body.push(0);
        let startup = session::parse_startup(&body).expect("a start-up");
        let settings = Settings {
            id: 1,
            address: None,
            token_key: [7; 32],
            nonce: "00".repeat(16),
            statement_bytes_max: 16 * 1024,
            message_bytes_max: frame::FRONTEND_BYTES_MAX,
            late_masking: true,
            require_auth: Default::default(),
        };
        let (session, _) = Session::new(&startup, settings);
        let judge = Arc::new(Remembering {
            ground: super::counting(),
            planned: Mutex::default(),
        });
        let mut new = Self {
            session,
            judge,
            to_server: BytesMut::new(),
            answers: BytesMut::new(),
            to_client: BytesMut::new(),
            skipping: false,
            charging: None,
            charged: 0,
            outcome: Outcome::default(),
        };
        let hello = [
            message(b'R', &0_i32.to_be_bytes()),
            message(b'S', b"client_encoding\0UTF8\0"),
            message(b'K', &[1; 36]),
            message(b'Z', b"I"),
        ];
        new.server(&hello.concat());
        new
    }

    fn server(&mut self, bytes: &[u8]) {
        self.answers.extend_from_slice(bytes);
        let actions = self.session.server_bytes(&mut self.answers, Timestamp::UNIX_EPOCH);
        self.perform(actions);
    }

    fn client(&mut self, bytes: &mut BytesMut) {
        let actions = self.session.client_bytes(bytes, Timestamp::UNIX_EPOCH);
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::ToServer(bytes) => {
                    assert!(!self.outcome.closed, "bytes for the server after the end");
                    self.to_server.extend_from_slice(&bytes);
                }
                Action::ToClient(bytes) => {
                    assert!(!self.outcome.closed, "bytes for the client after the end");
                    self.to_client.extend_from_slice(&bytes);
                }
                Action::Charge(request) => {
                    assert!(self.charging.is_none(), "two charges at once");
                    self.charging = Some(request.shown.len());
                }
                Action::Admitted => self.session.set_judge(Arc::clone(&self.judge) as Arc<dyn Judge>),
                Action::RefreshCatalog(number) => {
                    let actions = self.session.refreshed(number, true, Timestamp::UNIX_EPOCH);
                    self.perform(actions);
                }
                Action::CancelUpstream => {
                    let actions = self.session.cancelled(Timestamp::UNIX_EPOCH);
                    self.perform(actions);
                }
                Action::Close => self.outcome.closed = true,
                Action::CatalogChanged | Action::JudgeAway | Action::Key(_) | Action::Note(_) | Action::Alert(_) => {}
            }
        }
        // What goes to a client is whole messages.
        while let Some(sent) = frame::next(&mut self.to_client, frame::BACKEND_BYTES_MAX).expect("a message of ours") {
            self.outcome.down += 1;
            self.outcome.rows += usize::from(sent.kind == b'D');
        }
        assert!(self.to_client.is_empty(), "a part of a message for the client");
    }

    /// The ledger answers.
    fn settle(&mut self) {
        while let Some(rows) = self.charging.take() {
            self.charged += rows;
            let charged = Charged {
                released: rows,
                crossings: Vec::new(),
                stopped: None,
                new_people: Vec::new(),
                estimated: 0,
            };
            let actions = self
                .session
                .charged(Ok(charged), &mut self.answers, Timestamp::UNIX_EPOCH);
            self.perform(actions);
        }
    }

    /// What PostgreSQL would answer to what has gone upstream, all of which must be the guard's or Menshen's own.
    fn answer(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(sent) = frame::next(&mut self.to_server, usize::MAX >> 1).expect("a message of ours") {
            self.outcome.upstream += 1;
            let text = |skip: usize| {
                let mut strings = sent.body().split(|b| *b == 0).skip(skip);
                String::from_utf8_lossy(strings.next().unwrap_or_default()).into_owned()
            };
            if self.skipping && sent.kind != b'S' {
                continue;
            }
            match sent.kind {
                b'Q' => out.extend([self.statements(&text(0)), message(b'Z', b"I")].concat()),
                b'P' => {
                    let (name, sql) = (text(0), text(1));
                    if name == "menshen.refused" {
                        self.skipping = true;
                        out.extend(error());
                        continue;
                    }
                    let known = self
                        .judge
                        .planned
                        .lock()
                        .expect("nobody panics with it")
                        .contains_key(&sql);
                    assert!(known || name.starts_with("menshen."), "not judged: {sql:?}");
                    out.extend(message(b'1', b""));
                }
                b'B' => out.extend(message(b'2', b"")),
                b'C' => out.extend(message(b'3', b"")),
                b'D' if sent.body().first() == Some(&b'S') => {
                    out.extend([message(b't', b"\0\0"), message(b'n', b"")].concat())
                }
                b'D' => out.extend(message(b'n', b"")),
                b'E' => out.extend(self.executed(&text(0))),
                b'F' => out.extend([message(b'V', &(-1_i32).to_be_bytes()), message(b'Z', b"I")].concat()),
                b'S' => {
                    self.skipping = false;
                    out.extend(message(b'Z', b"I"));
                }
                _ => {}
            }
        }
        assert!(self.to_server.is_empty(), "a part of a message for the server");
        out
    }

    fn statements(&self, sql: &str) -> Vec<u8> {
        let count = self
            .judge
            .planned
            .lock()
            .expect("nobody panics with it")
            .get(sql)
            .copied();
        match count {
            Some(0) => message(b'I', b""),
            Some(count) => message(b'C', b"SELECT 0\0").repeat(count),
            None => {
                assert!(sql.starts_with("menshen refused"), "not judged: {sql:?}");
                error()
            }
        }
    }

    /// Rows of Menshen's own questions; nothing of others.
    fn executed(&self, portal: &str) -> Vec<u8> {
        let values: Vec<&[u8]> = match portal {
            "menshen.probe" => {
                let mut values: Vec<&[u8]> = vec![br#"["pg_catalog", "public"]"#, b"support"];
                for name in self.judge.ground.policy.setting_names() {
                    values.push(if name == "purpose" {
                        b"customer_service"
                    } else {
                        b"CS-004711"
                    });
                }
                values
            }
            "menshen.function" => vec![b"pg_catalog", b"int4abs"],
            _ => Vec::new(),
        };
        let mut row = i16::try_from(values.len()).expect("few").to_be_bytes().to_vec();
        for value in &values {
            row.extend(i32::try_from(value.len()).expect("short").to_be_bytes());
            row.extend(*value);
        }
        let row = if values.is_empty() {
            Vec::new()
        } else {
            message(b'D', &row)
        };
        [row, message(b'C', b"SELECT 1\0")].concat()
    }
}

/// A message.
#[must_use]
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 4).expect("a short message").to_be_bytes();
    [&[kind], length.as_slice(), body].concat()
}

fn error() -> Vec<u8> {
    message(b'E', b"SERROR\0VERROR\0C42601\0Msyntax error\0\0")
}

/// Bytes of a client. The first says who it is, in what portions the bytes come, and whether the server is slow.
pub fn client(data: &[u8]) -> Outcome {
    let Some((how, data)) = data.split_first() else {
        return Outcome::default();
    };
    let login = ["analyst", "support", "intern", "dba"][usize::from(how & 3)];
    let portion = [usize::MAX, 1, 7, 64][usize::from(how >> 2 & 3)].min(data.len().max(1));
    let slow = how & 16 != 0;
    let mut conversation = Conversation::started(login);
    let mut bytes = BytesMut::new();
    for piece in data.chunks(portion) {
        if conversation.outcome.closed {
            break;
        }
        bytes.extend_from_slice(piece);
        conversation.client(&mut bytes);
        if !slow {
            conversation.exchange();
        }
    }
    conversation.exchange();
    conversation.outcome
}

impl Conversation {
    /// Until the server has answered everything.
    fn exchange(&mut self) {
        for _ in 0..10_000 {
            let answers = self.answer();
            if answers.is_empty() || self.outcome.closed {
                return;
            }
            self.server(&answers);
            self.settle();
        }
        panic!("client and server have no end of words");
    }
}

/// What the client of [`server`] asks for: people by every way there is.
const ASKED: [&str; 4] = [
    "SELECT id, phone FROM crm.customers",
    "SELECT phone FROM crm.customers WHERE id = 1",
    "COPY crm.customers (id, phone) TO STDOUT",
    "SELECT 1",
];

/// Bytes of a server. The first says who asks, what and how, and in what portions the answer comes.
pub fn server(data: &[u8]) -> Outcome {
    let Some((how, data)) = data.split_first() else {
        return Outcome::default();
    };
    let sql = ASKED[usize::from(how & 3)];
    let portion = [usize::MAX, 1, 5, 64][usize::from(how >> 2 & 3)].min(data.len().max(1));
    let mut conversation = Conversation::started(if how & 32 == 0 { "support" } else { "analyst" });
    let mut asked = BytesMut::new();
    if how & 16 == 0 {
        asked.extend_from_slice(&message(b'Q', &[sql.as_bytes(), b"\0"].concat()));
    } else {
        for part in [
            message(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat()),
            message(b'B', b"\0\0\0\0\0\0\0\0"),
            message(b'D', b"P\0"),
            message(b'E', b"\0\0\0\0\0"),
            message(b'S', b""),
        ] {
            asked.extend_from_slice(&part);
        }
    }
    conversation.client(&mut asked);
    // Menshen's own questions are answered; the rest is the input.
    for _ in 0..8 {
        let mut ahead = BytesMut::from(&conversation.to_server[..]);
        let first = frame::next(&mut ahead, usize::MAX >> 1).ok().flatten();
        let own = first.is_some_and(|f| f.kind == b'P' && f.body().starts_with(b"menshen."));
        if !own {
            break;
        }
        let answers = conversation.answer();
        conversation.server(&answers);
    }
    let metered = sql != "SELECT 1";
    let before = conversation.outcome.rows;
    for piece in data.chunks(portion) {
        if conversation.outcome.closed {
            break;
        }
        conversation.server(piece);
        let shown = conversation.outcome.rows - before;
        assert!(
            !metered || shown <= conversation.charged,
            "{shown} rows of people, {} charged",
            conversation.charged
        );
        conversation.settle();
    }
    conversation.outcome
}

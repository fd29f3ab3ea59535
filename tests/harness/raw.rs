//! A client that speaks the protocol message by message and keeps every byte it received.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    /// Every byte received.
    pub received: Vec<u8>,
    /// BackendKeyData's body.
    pub key: Vec<u8>,
    /// What is sent when the server asks for COPY data.
    pub copy_data: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: u8,
    pub body: Vec<u8>,
}

/// The answer to one statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub columns: Vec<(String, u32)>,
    /// The table and column that each column is, as RowDescription says.
    pub origins: Vec<(u32, i16)>,
    /// Length and modifier of each one's type.
    pub modifiers: Vec<(i16, i32)>,
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
    pub tag: String,
    pub suspended: bool,
    /// SQLSTATE and message.
    pub error: Option<(String, String)>,
    pub notices: Vec<String>,
    pub status: u8,
}

impl Answer {
    pub fn text(&self, row: usize, column: usize) -> String {
        String::from_utf8_lossy(self.rows[row][column].as_deref().unwrap_or(b"NULL")).into_owned()
    }
    pub fn sqlstate(&self) -> &str {
        self.error.as_ref().map_or("", |(c, _)| c)
    }
}

impl Raw {
    pub fn connect(port: u16, database: &str, login: &str, password: &str, options: &str) -> Result<Self, String> {
        Self::connect_with(port, database, login, password, &[("options", options)])
    }

    /// With more parameters of start-up.
    pub fn connect_with(
        port: u16,
        database: &str,
        login: &str,
        password: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
        Self::on_stream(stream, database, login, password, parameters)
    }

    /// On a connection on which nothing has been said yet, or only what comes before a StartupMessage.
    pub fn on_stream(
        stream: TcpStream,
        database: &str,
        login: &str,
        password: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Self, String> {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut raw = Self {
            stream,
            received: Vec::new(),
            key: Vec::new(),
            copy_data: String::new(),
        };
        let mut body = 196_608_i32.to_be_bytes().to_vec();
        let own = [("user", login), ("database", database), ("client_encoding", "UTF8")];
        for (name, value) in own.iter().chain(parameters) {
            if !value.is_empty() {
                body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
            }
        }
        body.push(0);
        let length = i32::try_from(body.len() + 4).unwrap().to_be_bytes();
        raw.stream.write_all(&[length.as_slice(), &body].concat()).unwrap();
        let mut scram: Option<ScramSha256> = None;
        loop {
            let message = raw.next()?;
            match message.kind {
                b'R' => match i32::from_be_bytes(message.body[..4].try_into().unwrap()) {
                    0 => {}
                    3 => raw.send(b'p', &[password.as_bytes(), b"\0"].concat()),
                    5 => {
                        let salt: [u8; 4] = message.body[4..8].try_into().unwrap();
                        let hash =
                            postgres_protocol::authentication::md5_hash(login.as_bytes(), password.as_bytes(), salt);
                        raw.send(b'p', &[hash.as_bytes(), b"\0"].concat());
                    }
                    10 => {
                        let offered = String::from_utf8_lossy(&message.body[4..]).into_owned();
                        assert!(!offered.contains("PLUS"), "channel binding was offered: {offered:?}");
                        let s = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                        let first = s.message().to_vec();
                        let mut body = b"SCRAM-SHA-256\0".to_vec();
                        body.extend(i32::try_from(first.len()).unwrap().to_be_bytes());
                        body.extend(first);
                        raw.send(b'p', &body);
                        scram = Some(s);
                    }
                    11 => {
                        let s = scram.as_mut().unwrap();
                        s.update(&message.body[4..]).map_err(|e| e.to_string())?;
                        let next = s.message().to_vec();
                        raw.send(b'p', &next);
                    }
                    12 => scram
                        .as_mut()
                        .unwrap()
                        .finish(&message.body[4..])
                        .map_err(|e| e.to_string())?,
                    other => return Err(format!("authentication {other}")),
                },
                b'K' => raw.key = message.body,
                b'Z' => return Ok(raw),
                b'E' => {
                    let (code, text) = fields(&message.body);
                    return Err(format!("{code}: {text}"));
                }
                _ => {}
            }
        }
    }

    pub fn send(&mut self, kind: u8, body: &[u8]) {
        let length = i32::try_from(body.len() + 4).unwrap().to_be_bytes();
        self.stream
            .write_all(&[&[kind], length.as_slice(), body].concat())
            .unwrap();
    }

    /// Bytes that need not be a message.
    pub fn write_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Another handle of the same connection, to write while this one reads.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    pub fn next(&mut self) -> Result<Message, String> {
        let mut head = [0_u8; 5];
        self.stream.read_exact(&mut head).map_err(|e| e.to_string())?;
        let length = usize::try_from(i32::from_be_bytes(head[1..].try_into().unwrap())).unwrap();
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body).map_err(|e| e.to_string())?;
        self.received.extend(head);
        self.received.extend(&body);
        Ok(Message { kind: head[0], body })
    }

    /// A Query; the last statement's answer.
    pub fn simple(&mut self, sql: &str) -> Answer {
        self.send(b'Q', &[sql.as_bytes(), b"\0"].concat());
        self.answer()
    }

    pub fn parse(&mut self, name: &str, sql: &str) {
        self.send(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat());
    }

    pub fn bind(&mut self, portal: &str, statement: &str, params: &[&str], formats: &[i16]) {
        let mut body = [portal.as_bytes(), b"\0", statement.as_bytes(), b"\0\0\0"].concat();
        body.extend(i16::try_from(params.len()).unwrap().to_be_bytes());
        for p in params {
            body.extend(i32::try_from(p.len()).unwrap().to_be_bytes());
            body.extend(p.as_bytes());
        }
        body.extend(i16::try_from(formats.len()).unwrap().to_be_bytes());
        for f in formats {
            body.extend(f.to_be_bytes());
        }
        self.send(b'B', &body);
    }

    pub fn describe(&mut self, kind: u8, name: &str) {
        self.send(b'D', &[&[kind], name.as_bytes(), b"\0"].concat());
    }

    pub fn execute(&mut self, portal: &str, rows: i32) {
        self.send(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat());
    }

    pub fn sync(&mut self) {
        self.send(b'S', b"");
    }

    /// Parse, Bind, Describe, Execute, Sync in one go.
    pub fn extended(&mut self, sql: &str, params: &[&str], binary: bool) -> Answer {
        self.parse("", sql);
        self.bind("", "", params, if binary { &[1] } else { &[] });
        self.describe(b'P', "");
        self.execute("", 0);
        self.sync();
        self.answer()
    }

    /// Everything up to ReadyForQuery, where the data of COPY FROM STDIN have been sent already.
    pub fn answer_to_copy(&mut self) -> Answer {
        self.answered(false)
    }

    /// Sends a statement that takes long, and CancelRequests to a port until it is answered: one that comes before the statement has begun is
    /// lost, as without Menshen.
    pub fn cancelled(&mut self, port: u16, sql: &str) -> Answer {
        let length = i32::try_from(self.key.len() + 8).unwrap().to_be_bytes();
        let packet = [&length[..], &80_877_102_i32.to_be_bytes(), &self.key].concat();
        self.send(b'Q', &[sql.as_bytes(), b"\0"].concat());
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(300));
                    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                    stream.write_all(&packet).unwrap();
                    let _closed = stream.read(&mut [0]);
                }
            });
            let answer = self.answer();
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            answer
        })
    }

    /// Everything up to ReadyForQuery.
    pub fn answer(&mut self) -> Answer {
        self.answered(true)
    }

    fn answered(&mut self, copies: bool) -> Answer {
        let mut answer = Answer::default();
        loop {
            let message = self.next().unwrap_or_else(|e| panic!("{e}; so far {answer:?}"));
            match message.kind {
                b'T' => {
                    let all = columns(&message.body);
                    answer.columns = all.iter().map(|c| c.0.clone()).collect();
                    answer.origins = all.iter().map(|c| c.1).collect();
                    answer.modifiers = all.iter().map(|c| c.2).collect();
                    answer.rows.clear();
                }
                b'D' => answer.rows.push(cells(&message.body)),
                b'C' => answer.tag = String::from_utf8_lossy(&message.body).trim_end_matches('\0').to_owned(),
                b's' => answer.suspended = true,
                // COPY: the number of columns, and each message as a row.
                b'H' => answer.columns = vec![(format!("COPY {:?}", &message.body[..3]), 0)],
                b'd' => answer.rows.push(vec![Some(message.body)]),
                b'G' if copies => {
                    let data = std::mem::take(&mut self.copy_data);
                    self.send(b'd', data.as_bytes());
                    self.send(b'c', b"");
                }
                b'E' if answer.error.is_none() => answer.error = Some(fields(&message.body)),
                b'N' => answer.notices.push(fields(&message.body).1),
                b'Z' => {
                    answer.status = message.body[0];
                    return answer;
                }
                _ => {}
            }
        }
    }
}

fn string(body: &mut &[u8]) -> String {
    let end = body.iter().position(|b| *b == 0).unwrap();
    let text = String::from_utf8_lossy(&body[..end]).into_owned();
    *body = &body[end + 1..];
    text
}

/// Name and type, the table and column that it is, and length and modifier of the type.
type Column = ((String, u32), (u32, i16), (i16, i32));

fn columns(mut body: &[u8]) -> Vec<Column> {
    let count = i16::from_be_bytes(body[..2].try_into().unwrap());
    body = &body[2..];
    (0..count)
        .map(|_| {
            let name = string(&mut body);
            let table = u32::from_be_bytes(body[..4].try_into().unwrap());
            let column = i16::from_be_bytes(body[4..6].try_into().unwrap());
            let ty = u32::from_be_bytes(body[6..10].try_into().unwrap());
            let length = i16::from_be_bytes(body[10..12].try_into().unwrap());
            let modifier = i32::from_be_bytes(body[12..16].try_into().unwrap());
            body = &body[18..];
            ((name, ty), (table, column), (length, modifier))
        })
        .collect()
}

fn cells(mut body: &[u8]) -> Vec<Option<Vec<u8>>> {
    let count = i16::from_be_bytes(body[..2].try_into().unwrap());
    body = &body[2..];
    (0..count)
        .map(|_| {
            let length = i32::from_be_bytes(body[..4].try_into().unwrap());
            body = &body[4..];
            let length = usize::try_from(length).ok()?;
            let value = body[..length].to_vec();
            body = &body[length..];
            Some(value)
        })
        .collect()
}

/// SQLSTATE and message of an ErrorResponse or NoticeResponse.
pub fn fields(mut body: &[u8]) -> (String, String) {
    let (mut code, mut text) = (String::new(), String::new());
    while body.first().is_some_and(|b| *b != 0) {
        let kind = body[0];
        body = &body[1..];
        let value = string(&mut body);
        match kind {
            b'C' => code = value,
            b'M' => text = value,
            _ => {}
        }
    }
    (code, text)
}

/// The name of Menshen's rule in the DETAIL of a refusal among what was received.
pub fn rule(received: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(received);
    let (_, rest) = text.split_once("Menshen rule: ")?;
    rest.split_once('.').map(|(rule, _)| rule.to_owned())
}

/// A start-up of any version and parameters without a password, and what came of it.
pub struct Startup {
    stream: TcpStream,
    /// NegotiateProtocolVersion: version and options.
    pub negotiated: Option<(i32, Vec<String>)>,
    /// BackendKeyData's body.
    pub key: Vec<u8>,
    /// SQLSTATE of an error.
    pub error: String,
    pub ready: bool,
}

impl Startup {
    pub fn send(port: u16, version: i32, parameters: &[(&str, &str)]) -> Self {
        let mut body = version.to_be_bytes().to_vec();
        for (name, value) in parameters {
            body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        body.push(0);
        Self::of(port, &body)
    }

    /// Of a body without its length.
    pub fn of(port: u16, body: &[u8]) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let length = i32::try_from(body.len() + 4).unwrap().to_be_bytes();
        stream.write_all(&[length.as_slice(), body].concat()).unwrap();
        let mut startup = Self {
            stream,
            negotiated: None,
            key: Vec::new(),
            error: String::new(),
            ready: false,
        };
        while let Some(message) = startup.next() {
            match message.kind {
                b'v' => {
                    let mut rest = &message.body[8..];
                    let version = i32::from_be_bytes(message.body[..4].try_into().unwrap());
                    let count = i32::from_be_bytes(message.body[4..8].try_into().unwrap());
                    startup.negotiated = Some((version, (0..count).map(|_| string(&mut rest)).collect()));
                    assert!(rest.is_empty());
                }
                b'K' => startup.key = message.body,
                b'E' => {
                    startup.error = fields(&message.body).0;
                    break;
                }
                b'Z' => {
                    startup.ready = true;
                    break;
                }
                _ => {}
            }
        }
        startup
    }

    fn next(&mut self) -> Option<Message> {
        let mut head = [0_u8; 5];
        self.stream.read_exact(&mut head).ok()?;
        let length = usize::try_from(i32::from_be_bytes(head[1..].try_into().unwrap())).unwrap();
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body).ok()?;
        Some(Message { kind: head[0], body })
    }

    pub fn send_message(&mut self, kind: u8, body: &[u8]) {
        let length = i32::try_from(body.len() + 4).unwrap().to_be_bytes();
        self.stream
            .write_all(&[&[kind], length.as_slice(), body].concat())
            .unwrap();
    }

    /// Whether something has come.
    pub fn has_answer(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let come = self.stream.peek(&mut [0]).is_ok();
        self.stream.set_nonblocking(false).unwrap();
        come
    }

    /// SQLSTATE of the next error.
    pub fn sqlstate(&mut self) -> String {
        while let Some(message) = self.next() {
            if message.kind == b'E' {
                return fields(&message.body).0;
            }
        }
        String::new()
    }
}

/// Sends a CancelRequest and waits until it has been taken.
pub fn cancel(port: u16, key: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = i32::try_from(key.len() + 8).unwrap().to_be_bytes();
    stream
        .write_all(&[&length[..], &80_877_102_i32.to_be_bytes(), key].concat())
        .unwrap();
    let _closed = stream.read(&mut [0]);
}

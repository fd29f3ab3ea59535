//! Messages in and out, by `pgwire`, under PostgreSQL's names. What is here only joins it to [`Frame`]s.

use bytes::{Bytes, BytesMut};
use pgwire::messages::extendedquery::{Bind, Close, Describe, Execute, Flush, Parse, Sync};
use pgwire::messages::response::{ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus};
use pgwire::messages::simplequery::Query;
use pgwire::messages::{DecodeContext, Message};

use super::Refusal;
use super::frame::Frame;

/// A message that does not decode. The connection ends (08P01).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed message of type {0:?}")]
pub struct Malformed(pub char);

/// Decodes a frame's body.
///
/// # Errors
/// Where the body is not of that message.
pub fn decode<M: Message>(frame: &Frame) -> Result<M, Malformed> {
    let mut body = frame.body_mut();
    // pgwire reads fixed fields without asking whether they are there: what a server sends short must not reach anybody as a panic.
    let length = frame.bytes.len().saturating_sub(1);
    let bad = || Malformed(char::from(frame.kind));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        M::decode_body(&mut body, length, &DecodeContext::default())
    }))
    .map_err(|_| bad())?
    .map_err(|_| bad())
}

/// Encodes a message whole.
///
/// # Panics
/// Never: messages made here are below every length limit; one that is not gives no bytes.
#[must_use]
pub fn encode<M: Message>(message: &M) -> Bytes {
    let mut buffer = BytesMut::new();
    if let Some(kind) = M::message_type() {
        buffer.extend_from_slice(&[kind]);
    }
    let length = i32::try_from(message.message_length()).unwrap_or(i32::MAX);
    buffer.extend_from_slice(&length.to_be_bytes());
    match message.encode_body(&mut buffer) {
        Ok(()) => buffer.freeze(),
        Err(_) => Bytes::new(),
    }
}

/// Query.
#[must_use]
pub fn query(text: &str) -> Bytes {
    encode(&Query::new(text.to_owned()))
}

/// Parse.
#[must_use]
pub fn parse(name: &str, text: &str, types: &[u32]) -> Bytes {
    encode(&Parse::new(some(name), text.to_owned(), types.to_vec()))
}

/// Bind without parameters, text results.
#[must_use]
pub fn bind_plain(portal: &str, statement: &str) -> Bytes {
    encode(&Bind::new(
        some(portal),
        some(statement),
        Vec::new(),
        Vec::new(),
        Vec::new(),
    ))
}

/// Describe of a statement.
#[must_use]
pub fn describe_statement(name: &str) -> Bytes {
    encode(&Describe::new(b'S', some(name)))
}

/// Describe of a portal.
#[must_use]
pub fn describe_portal(name: &str) -> Bytes {
    encode(&Describe::new(b'P', some(name)))
}

/// Execute without limit.
#[must_use]
pub fn execute(portal: &str) -> Bytes {
    encode(&Execute::new(some(portal), 0))
}

/// Close of a statement.
#[must_use]
pub fn close_statement(name: &str) -> Bytes {
    encode(&Close::new(b'S', some(name)))
}

/// Close of a portal.
#[must_use]
pub fn close_portal(name: &str) -> Bytes {
    encode(&Close::new(b'P', some(name)))
}

/// Flush.
#[must_use]
pub fn flush() -> Bytes {
    encode(&Flush::new())
}

/// Sync.
#[must_use]
pub fn sync() -> Bytes {
    encode(&Sync::new())
}

/// ReadyForQuery with a status byte `I`, `T` or `E`.
#[must_use]
pub fn ready(status: u8) -> Bytes {
    let status = match status {
        b'T' => TransactionStatus::Transaction,
        b'E' => TransactionStatus::Error,
        _ => TransactionStatus::Idle,
    };
    encode(&ReadyForQuery::new(status))
}

/// NegotiateProtocolVersion: the version spoken, as in a StartupMessage, and the options that are not known.
#[must_use]
pub fn negotiate(version: i32, options: &[String]) -> Bytes {
    let mut body = version.to_be_bytes().to_vec();
    body.extend(i32::try_from(options.len()).unwrap_or(i32::MAX).to_be_bytes());
    for option in options {
        body.extend(option.as_bytes());
        body.push(0);
    }
    framed(b'v', &body)
}

/// A message of a type byte and a body.
#[must_use]
pub fn framed(kind: u8, body: &[u8]) -> Bytes {
    let mut packet = BytesMut::with_capacity(body.len() + 5);
    packet.extend_from_slice(&[kind]);
    packet.extend_from_slice(&i32::try_from(body.len() + 4).unwrap_or(i32::MAX).to_be_bytes());
    packet.extend_from_slice(body);
    packet.freeze()
}

/// Rule of a prepared statement that would show other columns than before.
pub const RESULT_TYPE: &str = "result-type";

/// A refusal as ErrorResponse.
#[must_use]
pub fn error(refusal: &Refusal, severity: &str) -> Bytes {
    let mut fields = vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', refusal.sqlstate.to_owned()),
        (b'M', refusal.message.clone()),
        (b'D', refusal.detail()),
    ];
    if !refusal.hint.is_empty() {
        fields.push((b'H', refusal.hint.to_string()));
    }
    if let Some(position) = refusal.position {
        fields.push((b'P', position.to_string()));
    }
    if refusal.rule == RESULT_TYPE {
        // Drivers tell it from others of its SQLSTATE by the routine that raises it in PostgreSQL.
        fields.push((b'R', "RevalidateCachedQuery".to_owned()));
    }
    encode(&ErrorResponse::new(fields))
}

/// A NOTICE of Menshen's own.
#[must_use]
pub fn notice(text: &str, detail: &str) -> Bytes {
    let mut fields = vec![
        (b'S', "NOTICE".to_owned()),
        (b'V', "NOTICE".to_owned()),
        (b'C', "01000".to_owned()),
        (b'M', text.to_owned()),
    ];
    if !detail.is_empty() {
        fields.push((b'D', detail.to_owned()));
    }
    encode(&NoticeResponse::new(fields))
}

/// An ErrorResponse or NoticeResponse without what can carry values of rows: DETAIL, HINT, context and internal query always; the message,
/// and the names beside it, where `withhold` says so.
#[must_use]
pub fn scrubbed(frame: &Frame) -> Bytes {
    let Ok(message) = decode::<ErrorResponse>(frame) else {
        return Bytes::new();
    };
    let field = |kind: u8| {
        let found = message.fields.iter().find(|(k, _)| *k == kind);
        found.map_or("", |(_, value)| value.as_str())
    };
    let code = field(b'C').to_owned();
    let source = Source {
        file: field(b'F'),
        routine: field(b'R'),
        has_position: !field(b'P').is_empty(),
    };
    let (withheld, raised) = (withhold(&code, &source), source.is_raised());
    let fields = message
        .fields
        .iter()
        .filter(|(kind, _)| !matches!(kind, b'D' | b'W' | b'q' | b'p' | b'H'))
        // RAISE may put anything into the names of objects too.
        .filter(|(kind, _)| !(raised && matches!(kind, b's' | b't' | b'c' | b'd' | b'n')))
        .map(|(kind, value)| {
            if *kind == b'M' && withheld {
                let text = format!("error {code}; Menshen withholds its text, which may carry protected values");
                (*kind, text)
            } else {
                (*kind, value.clone())
            }
        })
        .collect();
    if frame.kind == b'N' {
        encode(&NoticeResponse::new(fields))
    } else {
        encode(&ErrorResponse::new(fields))
    }
}

/// An ErrorResponse whose position (field P, characters from 1) counts from further ahead.
#[must_use]
pub fn shifted(bytes: Bytes, shift: u32) -> Bytes {
    let frame = Frame { kind: b'E', bytes };
    if shift == 0 {
        return frame.bytes;
    }
    let Ok(mut message) = decode::<ErrorResponse>(&frame) else {
        return frame.bytes;
    };
    for (kind, value) in &mut message.fields {
        if *kind == b'P'
            && let Ok(position) = value.parse::<u32>()
        {
            *value = position.saturating_add(shift).to_string();
        }
    }
    encode(&message)
}

/// An ErrorResponse with another primary message; `None` where it can't be read.
#[must_use]
pub fn with_text(frame: &Frame, text: &str) -> Option<Bytes> {
    let mut message = decode::<ErrorResponse>(frame).ok()?;
    for (kind, value) in &mut message.fields {
        if *kind == b'M' {
            text.clone_into(value);
        }
    }
    Some(encode(&message))
}

/// Where in the server a message comes from. No client can choose these fields: the C code that reports fills them in.
struct Source<'f> {
    /// Source file (field F).
    file: &'f str,
    /// Routine (field R).
    routine: &'f str,
    /// It points into the text that was sent (field P): the parser's words, which quote that text and know no values.
    has_position: bool,
}

impl Source<'_> {
    /// RAISE of PL/pgSQL, or its like in another language: every field but these was made by a function.
    fn is_raised(&self) -> bool {
        let languages = ["plperl.c", "plpy_elog.c", "pltcl.c"];
        self.routine == "exec_stmt_raise" || self.routine == "exec_stmt_assert" || languages.contains(&self.file)
    }
}

/// Whether a message's text may quote values of rows, by its source and SQLSTATE.
fn withhold(code: &str, source: &Source<'_>) -> bool {
    /// They report violated constraints and name them, not the values: those stand in DETAIL.
    const CONSTRAINTS: [&str; 8] = [
        "domains.c",
        "execExprInterp.c",
        "execIndexing.c",
        "execMain.c",
        "execPartition.c",
        "nbtinsert.c",
        "ri_triggers.c",
        "tablecmds.c",
    ];
    const PARSERS: [&str; 5] = [
        "formatting.c",
        "to_tsany.c",
        "tsquery.c",
        "tsvector.c",
        "tsvector_parser.c",
    ];
    if source.is_raised() {
        return true;
    }
    if source.has_position {
        return false;
    }
    match code.get(..2).unwrap_or("") {
        "23" => !CONSTRAINTS.contains(&source.file),
        // No such object: at run time it is what a value names (`value::regrole`).
        "42" => source.file != "aclchk.c",
        // Features, transactions, limits, locks, the server's state: no values, but for parsers of text that quote what they read.
        "0A" | "21" | "25" | "40" | "44" | "53" | "54" | "55" | "57" | "58" => PARSERS.contains(&source.file),
        _ => true,
    }
}

/// The SQLSTATE of an ErrorResponse or NoticeResponse; empty where it can't be read.
#[must_use]
pub fn sqlstate(frame: &Frame) -> String {
    let Ok(message) = decode::<ErrorResponse>(frame) else {
        return String::new();
    };
    let code = message.fields.into_iter().find(|(k, _)| *k == b'C');
    code.map(|(_, value)| value).unwrap_or_default()
}

/// The severity of an ErrorResponse or NoticeResponse, not translated (field V; without digits: `DEBUG5` is `DEBUG`).
#[must_use]
pub fn severity(frame: &Frame) -> String {
    let Ok(message) = decode::<ErrorResponse>(frame) else {
        return String::new();
    };
    let fields = &message.fields;
    let found = fields
        .iter()
        .find(|(k, _)| *k == b'V')
        .or_else(|| fields.iter().find(|(k, _)| *k == b'S'));
    found.map_or_else(String::new, |(_, v)| {
        v.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()
    })
}

fn some(name: &str) -> Option<String> {
    (!name.is_empty()).then(|| name.to_owned())
}

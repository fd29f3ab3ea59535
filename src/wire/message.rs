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
    // pgwire reads fixed fields without asking whether they are there: a short body must not reach it as a panic.
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

/// An ErrorResponse or NoticeResponse without the fields that can carry values of rows: DETAIL, context, internal query. The
/// message goes too where its SQLSTATE is one whose text quotes values (classes 22 and 23, RAISE).
#[must_use]
pub fn scrubbed(frame: &Frame) -> Bytes {
    let Ok(message) = decode::<ErrorResponse>(frame) else {
        return Bytes::new();
    };
    let code = message
        .fields
        .iter()
        .find(|(k, _)| *k == b'C')
        .map_or("", |(_, v)| v.as_str())
        .to_owned();
    let quotes = code.starts_with("22") || code.starts_with("23") || code == "P0001" || code == "01000";
    let fields = message
        .fields
        .into_iter()
        .filter(|(kind, _)| !matches!(kind, b'D' | b'W' | b'q' | b'p' | b'H'))
        .map(|(kind, value)| {
            if kind == b'M' && quotes {
                (
                    kind,
                    format!("error {code}; Menshen withholds its text, which may carry protected values"),
                )
            } else {
                (kind, value)
            }
        })
        .collect();
    if frame.kind == b'N' {
        encode(&NoticeResponse::new(fields))
    } else {
        encode(&ErrorResponse::new(fields))
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

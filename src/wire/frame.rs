//! Framing: one message is a type byte, a length (int32, itself included) and a body. Bodies stay bytes until somebody needs them.

use bytes::{Bytes, BytesMut};

/// Most bytes of one message from a client, where the configuration says nothing else. PostgreSQL allows 1 GB.
pub const FRONTEND_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most bytes of one message from a client that has not logged in: PostgreSQL's own limit (`PG_MAX_AUTH_TOKEN_LENGTH`, auth.c).
pub const AUTHENTICATION_BYTES_MAX: usize = 65_535;
/// Most bytes of one message from the server: a row may hold values of up to 1 GB.
pub const BACKEND_BYTES_MAX: usize = 0x3fff_ffff;

/// One message as it stands in the stream.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Type byte.
    pub kind: u8,
    /// The whole message: type, length, body.
    pub bytes: Bytes,
}

impl Frame {
    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.get(5..).unwrap_or(&[])
    }

    /// The body as a buffer of its own, for decoders that consume it.
    #[must_use]
    pub fn body_mut(&self) -> BytesMut {
        BytesMut::from(self.body())
    }
}

/// A length that no message has. The connection ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message of type {kind:?} claims a length of {length}")]
pub struct BadLength {
    /// Type byte.
    pub kind: char,
    /// Claimed length.
    pub length: i64,
}

/// How many bytes of whole messages of one type stand at the front of a buffer. Lengths that no message has end it.
#[must_use]
pub fn run_of(kind: u8, buffer: &[u8], max: usize) -> usize {
    let mut at = 0;
    while let Some((head, _)) = buffer.get(at..).and_then(<[u8]>::split_first_chunk::<5>) {
        let [found, a, b, c, d] = *head;
        let length = usize::try_from(i32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if found != kind || length < 4 || length > max || buffer.len() - at < length + 1 {
            break;
        }
        at += length + 1;
    }
    at
}

/// Bytes that are missing of the message at the front of a buffer; `None` where its head is not there, or claims more than `max`.
#[must_use]
pub fn rest_of(buffer: &[u8], max: usize) -> Option<usize> {
    let (head, _) = buffer.split_first_chunk::<5>()?;
    let [_, a, b, c, d] = *head;
    let length = usize::try_from(i32::from_be_bytes([a, b, c, d])).ok()?;
    (length <= max).then(|| (length + 1).saturating_sub(buffer.len()))
}

/// Type and body of the whole message at the front of a buffer, if one stands there. A length that no message has is left to [`next`].
#[must_use]
pub fn first(buffer: &[u8], max: usize) -> Option<(u8, &[u8])> {
    let ([kind, a, b, c, d], rest) = buffer.split_first_chunk::<5>()?;
    let length = usize::try_from(i32::from_be_bytes([*a, *b, *c, *d])).ok()?;
    if length > max {
        return None;
    }
    Some((*kind, rest.get(..length.checked_sub(4)?)?))
}

/// The body of a whole message of one type at the front of a buffer, if one stands there.
#[must_use]
pub fn first_body(kind: u8, buffer: &[u8], max: usize) -> Option<&[u8]> {
    let ([found, a, b, c, d], rest) = buffer.split_first_chunk::<5>()?;
    let length = usize::try_from(i32::from_be_bytes([*a, *b, *c, *d])).ok()?;
    if *found != kind || length > max {
        return None;
    }
    rest.get(..length.checked_sub(4)?)
}

/// Takes the next whole message off the front of a buffer; `None` where more bytes are needed.
///
/// # Errors
/// Where the length is below 4 or above `max`.
pub fn next(buffer: &mut BytesMut, max: usize) -> Result<Option<Frame>, BadLength> {
    let Some((head, _)) = buffer.split_first_chunk::<5>() else {
        return Ok(None);
    };
    let [kind, a, b, c, d] = *head;
    let length = i32::from_be_bytes([a, b, c, d]);
    let bad = || BadLength {
        kind: char::from(kind),
        length: i64::from(length),
    };
    let whole = usize::try_from(length)
        .ok()
        .filter(|l| *l >= 4 && *l <= max)
        .ok_or_else(bad)?
        + 1;
    if buffer.len() < whole {
        return Ok(None);
    }
    Ok(Some(Frame {
        kind,
        bytes: buffer.split_to(whole).freeze(),
    }))
}

//! What a session needs of client messages, read where it stands (protocol-message-formats). Strings are bytes here: what they mean depends on
//! the client's encoding. A message that is not laid out as it must be gives nothing; see [`shape`](super::shape).

use bytes::Buf;
use smallvec::SmallVec;

use super::Frame;

/// Types of parameters; 0 leaves one to the server.
pub type Types = SmallVec<[u32; 8]>;

/// Of Parse: name, text and the types of parameters.
#[must_use]
pub fn parse(frame: &Frame) -> Option<(&[u8], &[u8], Types)> {
    let mut body = frame.body();
    let (name, text) = (string(&mut body)?, string(&mut body)?);
    let count = body.try_get_u16().ok()?;
    let types = (0..count).map(|_| body.try_get_u32().ok()).collect::<Option<_>>()?;
    Some((name, text, types))
}

/// Of Query: its text.
#[must_use]
pub fn query(frame: &Frame) -> Option<&[u8]> {
    string(&mut frame.body())
}

/// Of Bind: portal, statement, and how many formats of results it has.
#[must_use]
pub fn bind(frame: &Frame) -> Option<(&[u8], &[u8], u16)> {
    let mut body = frame.body();
    let (portal, statement) = (string(&mut body)?, string(&mut body)?);
    for _ in 0..body.try_get_u16().ok()? {
        body.try_get_u16().ok()?;
    }
    for _ in 0..body.try_get_u16().ok()? {
        // -1 is null.
        let length = usize::try_from(body.try_get_i32().ok()?).unwrap_or(0);
        body = body.get(length..)?;
    }
    Some((portal, statement, body.try_get_u16().ok()?))
}

/// Of Bind: the value of a parameter by number, from 1; `None` where it is null or has none.
#[must_use]
pub fn parameter(frame: &Frame, number: i64) -> Option<&[u8]> {
    let mut body = frame.body();
    string(&mut body)?;
    string(&mut body)?;
    let formats = usize::from(body.try_get_u16().ok()?);
    body = body.get(formats * 2..)?;
    for at in 1..=i64::from(body.try_get_u16().ok()?) {
        let length = usize::try_from(body.try_get_i32().ok()?);
        let (value, rest) = body.split_at_checked(length.unwrap_or(0))?;
        if at == number {
            return length.is_ok().then_some(value);
        }
        body = rest;
    }
    None
}

/// Of Describe and Close: `S` for a statement or `P` for a portal, and its name.
#[must_use]
pub fn target(frame: &Frame) -> Option<(u8, &[u8])> {
    let mut body = frame.body();
    let kind = body.try_get_u8().ok()?;
    Some((kind, string(&mut body)?))
}

/// Of Execute: its portal, and how many rows it wants at most (0: all).
#[must_use]
pub fn execute(frame: &Frame) -> Option<(&[u8], i32)> {
    let mut body = frame.body();
    Some((string(&mut body)?, body.try_get_i32().ok()?))
}

fn string<'b>(body: &mut &'b [u8]) -> Option<&'b [u8]> {
    let end = body.iter().position(|b| *b == 0)?;
    let (string, rest) = body.split_at_checked(end)?;
    *body = rest.get(1..)?;
    Some(string)
}

#[cfg(test)]
mod tests {
    use super::super::message::framed;
    use super::*;

    fn frame(kind: u8, body: &[u8]) -> Frame {
        Frame {
            kind,
            bytes: framed(kind, body),
        }
    }

    #[test]
    fn names_and_texts_are_read_as_they_stand() {
        let message = frame(b'P', b"s\xff\0SELECT $1\0\0\x02\0\0\0\x17\0\0\0\x19");
        let (name, text, types) = parse(&message).unwrap();
        assert_eq!(
            (name, text, &types[..]),
            (&b"s\xff"[..], &b"SELECT $1"[..], &[23, 25][..])
        );
        let message = frame(b'B', b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x02ab\xff\xff\xff\xff\0\x01\0\0");
        assert_eq!(bind(&message), Some((&b"p"[..], &b"s"[..], 1)));
        assert_eq!(target(&frame(b'D', b"Sname\0")), Some((b'S', &b"name"[..])));
        assert_eq!(execute(&frame(b'E', b"p\0\0\0\0\x02")), Some((&b"p"[..], 2)));
        assert_eq!(execute(&frame(b'E', b"p\0\0\0\0")), None);
        assert_eq!(query(&frame(b'Q', b"\0")), Some(&b""[..]));
        assert_eq!(query(&frame(b'Q', b"x")), None);
    }
}

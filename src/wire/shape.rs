//! Whether a client's message is laid out as PostgreSQL reads it (protocol-message-formats): every string has its end, every count its items, and
//! nothing is left. `pgwire` takes what lacks an end for nothing, and panics where a fixed field is missing: neither may be judged.

use bytes::Buf;

use super::Frame;

/// Whether a Query, Parse, Bind, Describe, Execute or Close is whole. Others are not looked at here.
#[must_use]
pub fn is_whole(frame: &Frame) -> bool {
    let mut body = frame.body();
    let read = match frame.kind {
        b'Q' => string(&mut body),
        b'P' => string(&mut body)
            .and_then(|()| string(&mut body))
            .and_then(|()| items(&mut body, 4)),
        b'B' => string(&mut body)
            .and_then(|()| string(&mut body))
            .and_then(|()| items(&mut body, 2))
            .and_then(|()| values(&mut body))
            .and_then(|()| items(&mut body, 2)),
        b'D' | b'C' => target(&mut body).and_then(|()| string(&mut body)),
        b'E' => string(&mut body).and_then(|()| skip(&mut body, 4)),
        _ => return true,
    };
    read.is_some() && body.is_empty()
}

/// Whether a server's RowDescription, ErrorResponse, NoticeResponse, ReadyForQuery or (`rows`) DataRow is whole. Others are not looked at here,
/// and rows that only pass by need not be.
#[must_use]
pub fn is_whole_reply(frame: &Frame, rows: bool) -> bool {
    let mut body = frame.body();
    let read = match frame.kind {
        b'T' => columns(&mut body),
        b'E' | b'N' => fields(&mut body),
        b'Z' => skip(&mut body, 1),
        b'D' if rows => values(&mut body),
        _ => return true,
    };
    read.is_some() && body.is_empty()
}

/// Whether the body of a RowDescription is whole.
#[must_use]
pub fn is_row_description(mut body: &[u8]) -> bool {
    columns(&mut body).is_some() && body.is_empty()
}

/// Columns: a name and 18 bytes each.
fn columns(body: &mut &[u8]) -> Option<()> {
    for _ in 0..body.try_get_u16().ok()? {
        string(body)?;
        skip(body, 18)?;
    }
    Some(())
}

/// Fields of a message: a letter and a string each, then zero.
fn fields(body: &mut &[u8]) -> Option<()> {
    while body.try_get_u8().ok()? != 0 {
        string(body)?;
    }
    Some(())
}

/// A string and its zero.
fn string(body: &mut &[u8]) -> Option<()> {
    let end = body.iter().position(|b| *b == 0)?;
    skip(body, end + 1)
}

/// A number of items of so many bytes each, and they.
fn items(body: &mut &[u8], bytes: usize) -> Option<()> {
    let count = usize::from(body.try_get_u16().ok()?);
    skip(body, count * bytes)
}

/// A number of values, each with its length; -1 is null.
fn values(body: &mut &[u8]) -> Option<()> {
    for _ in 0..body.try_get_u16().ok()? {
        match body.try_get_i32().ok()? {
            -1 => {}
            length => skip(body, usize::try_from(length).ok()?)?,
        }
    }
    Some(())
}

/// `S` for a statement, `P` for a portal.
fn target(body: &mut &[u8]) -> Option<()> {
    matches!(body.try_get_u8().ok()?, b'S' | b'P').then_some(())
}

fn skip(body: &mut &[u8], bytes: usize) -> Option<()> {
    *body = body.get(bytes..)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_looked_at_alike() {
        let whole: [(u8, &[u8]); 4] = [
            (b'T', b"\0\x01a\0.................."),
            (b'E', b"SERROR\0C22012\0\0"),
            (b'Z', b"I"),
            (b'D', b"\0\x02\0\0\0\x01x\xff\xff\xff\xff"),
        ];
        let is = |kind: u8, body: &[u8]| {
            let bytes = super::super::message::framed(kind, body);
            is_whole_reply(&Frame { kind, bytes }, true)
        };
        for (kind, body) in whole {
            assert!(is(kind, body), "{}", char::from(kind));
            for end in 0..body.len() {
                assert!(!is(kind, &body[..end]), "{} {end}", char::from(kind));
            }
            assert!(!is(kind, &[body, b"\0"].concat()));
        }
    }

    #[test]
    fn what_lacks_an_end_or_has_more_is_not_whole() {
        let whole: [(u8, &[u8]); 6] = [
            (b'Q', b"SELECT 1\0"),
            (b'P', b"s\0SELECT $1\0\0\x01\0\0\0\x17"),
            (b'B', b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x02ab\xff\xff\xff\xff\0\x01\0\0"),
            (b'D', b"Sname\0"),
            (b'E', b"p\0\0\0\0\x05"),
            (b'C', b"P\0"),
        ];
        let is = |kind: u8, body: &[u8]| {
            is_whole(&Frame {
                kind,
                bytes: super::super::message::framed(kind, body),
            })
        };
        for (kind, body) in whole {
            assert!(is(kind, body), "{}", char::from(kind));
            for end in 0..body.len() {
                assert!(!is(kind, &body[..end]), "{} {end}", char::from(kind));
            }
            assert!(!is(kind, &[body, b"\0"].concat()));
        }
        assert!(!is(b'D', b"Xname\0"));
        assert!(!is(b'B', b"p\0s\0\0\0\0\x01\xff\xff\xff\xfe\0\0"));
    }
}

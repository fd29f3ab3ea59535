//! What has been read and not yet been taken. It grows while much comes, and costs next to nothing while nothing does.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::wire::frame;
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Room for one reading, at least and at most. Most messages of a client are shorter than the least.
const ROOM_MIN: usize = 1024;
const ROOM_MAX: usize = 64 * 1024;

/// One side's bytes.
#[derive(Debug)]
pub struct Inbox {
    /// The bytes.
    pub bytes: BytesMut,
    room: usize,
}

impl Inbox {
    /// With bytes that have been read already.
    #[must_use]
    pub fn new(bytes: BytesMut) -> Self {
        Self { bytes, room: ROOM_MIN }
    }

    /// Reads once; 0 at the end.
    ///
    /// # Errors
    /// As of the connection.
    pub fn poll_fill(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        // Room for the rest of a long message, in few steps: growing by halves would copy it again and again. What a head claims is believed when an
        // eighth of it has come.
        let rest = frame::rest_of(&self.bytes, frame::BACKEND_BYTES_MAX).unwrap_or(0);
        self.bytes.reserve(self.room.max(rest.min(self.bytes.len() * 8)));
        let read = ready!(std::pin::pin!(stream.read_buf(&mut self.bytes)).poll(context))?;
        if read >= self.room {
            self.room = (self.room * 4).min(ROOM_MAX);
        }
        Poll::Ready(Ok(read))
    }

    /// Nothing is expected soon.
    pub fn rest(&mut self) {
        if self.bytes.is_empty() && self.room > ROOM_MIN {
            *self = Self::new(BytesMut::new());
        }
    }
}

/// Writes what it can of an outbox, and flushes when all of it is written. Nothing is lost where it has to wait.
///
/// # Errors
/// As of the connection.
pub fn poll_send(
    stream: &mut (impl AsyncWrite + Unpin),
    outbox: &mut BytesMut,
    unflushed: &mut bool,
    context: &mut Context<'_>,
) -> Poll<std::io::Result<()>> {
    if !outbox.is_empty() {
        let taken = ready!(Pin::new(&mut *stream).poll_write(context, outbox))?;
        if taken == 0 {
            return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
        }
        outbox.advance(taken);
        *unflushed = true;
    }
    if outbox.is_empty() && *unflushed {
        ready!(Pin::new(stream).poll_flush(context))?;
        *unflushed = false;
    }
    Poll::Ready(Ok(()))
}

/// The same for bytes that wait to be written.
pub fn rest(outbox: &mut BytesMut) {
    if outbox.is_empty() && outbox.capacity() > ROOM_MIN {
        *outbox = BytesMut::new();
    }
}

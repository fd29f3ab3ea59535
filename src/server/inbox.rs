//! What has been read and not yet been taken. It grows while much comes, and costs next to nothing while nothing does.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

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

    /// Reads once; 0 at the end. Nothing is lost where it is dropped.
    ///
    /// # Errors
    /// As of the connection.
    pub async fn fill(&mut self, reads: &mut (impl AsyncRead + Unpin)) -> std::io::Result<usize> {
        self.bytes.reserve(self.room);
        let read = reads.read_buf(&mut self.bytes).await?;
        if read >= self.room {
            self.room = (self.room * 4).min(ROOM_MAX);
        }
        Ok(read)
    }

    /// Nothing is expected soon.
    pub fn rest(&mut self) {
        if self.bytes.is_empty() && self.room > ROOM_MIN {
            *self = Self::new(BytesMut::new());
        }
    }
}

/// The same for bytes that wait to be written.
pub fn rest(outbox: &mut BytesMut) {
    if outbox.is_empty() && outbox.capacity() > ROOM_MIN {
        *outbox = BytesMut::new();
    }
}

//! The service login's connection, whose password is Menshen's own: what the server asks for is looked at before tokio-postgres answers it.

use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use crate::wire::authentication::{RequireAuth, Watcher};
use crate::wire::frame;

/// Most bytes of one message before the end of authentication.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// What comes next.
enum Stage {
    /// The answer to an SSLRequest: with `S`, TLS follows, and another of these looks inside.
    Answer,
    /// Messages.
    Messages(Box<Watcher>, BytesMut),
    /// Nothing to look at.
    Done,
}

/// A connection whose Authentication messages are judged.
pub struct Asked<S> {
    stream: S,
    required: RequireAuth,
    stage: Stage,
}

impl<S> Asked<S> {
    /// `answer`: an SSLRequest will be sent first.
    pub fn new(stream: S, required: &RequireAuth, answer: bool) -> Self {
        let mut asked = Self {
            stream,
            required: required.clone(),
            stage: Stage::Answer,
        };
        if !answer {
            asked.stage = asked.messages();
        }
        asked
    }

    /// Over TLS from the first byte: the inside is looked at instead.
    pub fn outside(stream: S) -> Self {
        Self {
            stream,
            required: RequireAuth::default(),
            stage: Stage::Done,
        }
    }

    fn messages(&self) -> Stage {
        if self.required.restricts() {
            Stage::Messages(Box::new(Watcher::new(self.required.clone())), BytesMut::new())
        } else {
            Stage::Done
        }
    }

    fn look(&mut self, mut fresh: &[u8]) -> Result<(), String> {
        if matches!(self.stage, Stage::Answer) && fresh.has_remaining() {
            // Whatever is no consent to TLS is a refusal to tokio-postgres.
            self.stage = match fresh.get_u8() {
                b'S' => Stage::Done,
                _ => self.messages(),
            };
        }
        let Stage::Messages(watcher, bytes) = &mut self.stage else {
            return Ok(());
        };
        bytes.extend_from_slice(fresh);
        while let Some(message) = frame::next(bytes, MESSAGE_BYTES_MAX).map_err(|e| e.to_string())? {
            if message.kind == b'R' {
                watcher.judge(message.body())?;
                if message.body() == [0, 0, 0, 0] {
                    self.stage = Stage::Done;
                    break;
                }
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Asked<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = read {
            let fresh = buf.filled().get(before..).unwrap_or_default();
            if let Err(why) = this.look(fresh) {
                return Poll::Ready(Err(Error::new(ErrorKind::PermissionDenied, why)));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Asked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Asked<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

/// Makes TLS whose inside is looked at.
pub struct AskedInside<T>(pub T, pub RequireAuth);

impl<S, T> TlsConnect<S> for AskedInside<T>
where
    T: TlsConnect<S>,
    T::Stream: Unpin + Send,
    T::Future: Send + 'static,
    T::Error: 'static,
{
    type Stream = Asked<T::Stream>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, T::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let Self(tls, required) = self;
        let connecting = tls.connect(stream);
        Box::pin(async move { Ok(Asked::new(connecting.await?, &required, false)) })
    }
}

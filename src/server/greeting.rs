//! What comes before a StartupMessage: the balancer's PROXY header, TLS (asked for or begun at once), GSSENCRequest, CancelRequest.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::access::Visitor;
use super::census::Seat;
use super::client_tls::{self, common_name};
use super::proxy_protocol;
use super::shared::Shared;
use super::stream::Stream;
use crate::wire::{Refusal, message};

const SSL_REQUEST: i32 = 80_877_103;
const GSSENC_REQUEST: i32 = 80_877_104;
const CANCEL_REQUEST: i32 = 80_877_102;
/// PostgreSQL's own bound on start-up packets.
const STARTUP_BYTES_MAX: usize = 10_000;
/// The first byte of a TLS handshake; a start-up packet's is 0.
const TLS_HANDSHAKE: u8 = 0x16;

/// A client that wants to log in.
pub struct Greeted {
    /// Its connection.
    pub client: Stream,
    /// The StartupMessage's body.
    pub body: Bytes,
    /// Who it is.
    pub visitor: Visitor,
}

/// Gives the StartupMessage; `None` where the client wanted something else, which is done.
///
/// # Errors
/// Why the connection ends; the client has been told, where it can be.
pub async fn greet(
    shared: &Arc<Shared>,
    mut tcp: TcpStream,
    peer: SocketAddr,
    seat: &mut Seat,
) -> Result<Option<Greeted>, String> {
    let gate = shared.gate.load_full();
    let mut visitor = Visitor {
        address: peer,
        via: None,
        encrypted: false,
        certificate: None,
        shown: None,
    };
    let mut first = [0_u8; 1];
    if tcp.peek(&mut first).await.map_err(words)? == 0 {
        return Ok(None); // a port scan, a health check
    }
    let balancer = gate
        .channel
        .balancers
        .iter()
        .any(|n| n.contains(&peer.ip().to_canonical()));
    match (balancer, first) {
        (true, [proxy_protocol::FIRST_BYTE]) => {
            if let Some(address) = proxy_protocol::read(&mut tcp).await? {
                visitor.via = Some(peer);
                visitor.address = address;
            }
            if tcp.peek(&mut first).await.map_err(words)? == 0 {
                return Ok(None);
            }
        }
        (true, [other]) => {
            let what = if other == proxy_protocol::FIRST_BYTE_V1 {
                "a PROXY header of version 1 is not taken, only version 2"
            } else {
                "connections from this address must begin with a PROXY header of version 2"
            };
            return no_proxy(shared, Stream::Plain(tcp), &visitor, what).await;
        }
        (false, [proxy_protocol::FIRST_BYTE | proxy_protocol::FIRST_BYTE_V1]) => {
            let what = "a PROXY header is not taken from this address: it is not one of `proxy_protocol`";
            return no_proxy(shared, Stream::Plain(tcp), &visitor, what).await;
        }
        (false, [_]) => {}
    }
    if let Err(refusal) = seat.from(visitor.address.ip().to_canonical(), &shared.live.load().limits) {
        let why = refusal.message.clone();
        tracing::warn!(address = %visitor.address, "{why}; connection refused");
        turn_away(Stream::Plain(tcp), &refusal).await;
        return Err(why);
    }
    let mut client = Stream::Plain(tcp);
    if first == [TLS_HANDSHAKE] {
        client = direct(gate.acceptor.as_ref(), client, &mut visitor).await?;
    }
    // One of each request at most, then the packet itself.
    let (mut asked_tls, mut asked_gss) = (visitor.encrypted, false);
    loop {
        let body = packet(&mut client).await?;
        let code = body.first_chunk::<4>().map_or(0, |c| i32::from_be_bytes(*c));
        match (code, body.len()) {
            (SSL_REQUEST, 4) if !asked_tls => {
                asked_tls = true;
                client = match (&gate.acceptor, client) {
                    (Some(acceptor), Stream::Plain(tcp)) => requested(acceptor, tcp, &mut visitor).await?,
                    (_, mut other) => {
                        other.write_all(b"N").await.map_err(words)?;
                        other
                    }
                };
            }
            (GSSENC_REQUEST, 4) if !asked_gss => {
                asked_gss = true;
                client.write_all(b"N").await.map_err(words)?;
            }
            (SSL_REQUEST | GSSENC_REQUEST, _) => return Err("encryption is asked for twice".to_owned()),
            (CANCEL_REQUEST, _) => {
                let key = Bytes::copy_from_slice(body.get(4..).unwrap_or_default());
                shared.cancels.request(&key).await;
                return Ok(None);
            }
            _ => {
                visitor.shown = gate.leaf.clone().filter(|_| visitor.encrypted);
                return Ok(Some(Greeted {
                    client,
                    body: Bytes::from(body),
                    visitor,
                }));
            }
        }
    }
}

fn words(e: std::io::Error) -> String {
    e.to_string()
}

/// A start-up packet without its length.
async fn packet(client: &mut Stream) -> Result<Vec<u8>, String> {
    let length = client.read_i32().await.map_err(words)?;
    let length = usize::try_from(length)
        .ok()
        .filter(|l| (8..=STARTUP_BYTES_MAX).contains(l))
        .ok_or("bad length")?;
    let mut body = vec![0_u8; length - 4];
    client.read_exact(&mut body).await.map_err(words)?;
    Ok(body)
}

/// After an SSLRequest.
async fn requested(acceptor: &TlsAcceptor, mut tcp: TcpStream, visitor: &mut Visitor) -> Result<Stream, String> {
    // What follows an SSLRequest before its answer was not written by whoever will hold the TLS channel (CVE-2021-23222).
    if has_bytes(&tcp).await {
        let refusal = protocol("received unencrypted data after SSL request");
        turn_away(Stream::Plain(tcp), &refusal).await;
        return Err("unencrypted data after SSLRequest: a buggy client, or somebody in between".to_owned());
    }
    tcp.write_all(b"S").await.map_err(words)?;
    handshake(acceptor, tcp, visitor).await
}

/// `sslnegotiation=direct`: TLS from the first byte. By ALPN the client says that it means PostgreSQL: a TLS client of another
/// protocol could otherwise be made to speak to us (ALPACA).
async fn direct(acceptor: Option<&TlsAcceptor>, client: Stream, visitor: &mut Visitor) -> Result<Stream, String> {
    let (Some(acceptor), Stream::Plain(tcp)) = (acceptor, client) else {
        return Err("direct TLS without a certificate to offer".to_owned());
    };
    let client = handshake(acceptor, tcp, visitor).await?;
    match &client {
        Stream::Accepted(tls) if tls.get_ref().1.alpn_protocol() == Some(client_tls::ALPN) => Ok(client),
        Stream::Accepted(_) | Stream::Plain(_) | Stream::Local(_) | Stream::Connected(_) => {
            let what = "received direct SSL connection request without ALPN protocol negotiation extension";
            turn_away(client, &protocol(what)).await;
            Err(what.to_owned())
        }
    }
}

async fn handshake(acceptor: &TlsAcceptor, tcp: TcpStream, visitor: &mut Visitor) -> Result<Stream, String> {
    let tls = acceptor.accept(tcp).await.map_err(|e| format!("TLS: {e}"))?;
    visitor.encrypted = true;
    let shown = tls.get_ref().1.peer_certificates().and_then(|c| c.first());
    visitor.certificate = shown.map(common_name);
    Ok(Stream::Accepted(Box::new(tls)))
}

/// Whether bytes lie ready, without waiting for any.
async fn has_bytes(tcp: &TcpStream) -> bool {
    let mut byte = [0_u8; 1];
    std::future::poll_fn(|cx| {
        let mut buffer = ReadBuf::new(&mut byte);
        Poll::Ready(matches!(tcp.poll_peek(cx, &mut buffer), Poll::Ready(Ok(n)) if n > 0))
    })
    .await
}

fn protocol(message: &str) -> Refusal {
    Refusal {
        sqlstate: "08P01",
        rule: "protocol",
        message: message.to_owned(),
        hint: "".into(),
        position: None,
        incident: false,
    }
}

/// Whoever sends a header without being a named balancer may be choosing its own address.
async fn no_proxy<T>(shared: &Shared, client: Stream, visitor: &Visitor, what: &str) -> Result<T, String> {
    let refusal = Refusal {
        rule: "proxy-protocol",
        ..protocol(what)
    };
    shared.audit_refused(visitor, None, &refusal);
    turn_away(client, &refusal).await;
    Err(what.to_owned())
}

/// Tells a client why it can't come in, and closes. What it has sent is taken first: closing on unread bytes would reset the
/// connection, and the client might lose the message.
pub async fn turn_away(mut client: Stream, refusal: &Refusal) {
    let telling = async {
        client.write_all(&message::error(refusal, "FATAL")).await?;
        client.flush().await?;
        client.shutdown().await?;
        let mut rest = [0_u8; 1024];
        for _ in 0..16 {
            if client.read(&mut rest).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    let _late = tokio::time::timeout(std::time::Duration::from_secs(1), telling).await;
}

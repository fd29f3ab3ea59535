//! Opening a connection to the server.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::shared::Shared;
use super::stream::Stream;
use crate::config::SslMode;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Connects, with TLS as sslmode asks.
///
/// # Errors
/// A sentence for the client: the server's address is not in it.
pub async fn connect(shared: &Shared) -> Result<Stream, String> {
    let config = &shared.config;
    let tcp = TcpStream::connect(&config.upstream)
        .await
        .map_err(|e| format!("the database server cannot be reached: {e}"))?;
    let _slower = tcp.set_nodelay(true);
    let Some(connector) = &shared.connector else {
        return Ok(Stream::Plain(tcp));
    };
    let mut tcp = tcp;
    let failed = |e: std::io::Error| format!("the database server does not speak TLS: {e}");
    tcp.write_all(&SSL_REQUEST).await.map_err(failed)?;
    let mut answer = [0_u8; 1];
    tcp.read_exact(&mut answer).await.map_err(failed)?;
    match answer {
        [b'S'] => {
            let host = config
                .upstream
                .rsplit_once(':')
                .map_or(config.upstream.as_str(), |(h, _)| h);
            let host = host.trim_matches(['[', ']']).to_owned();
            let name = rustls::pki_types::ServerName::try_from(host).map_err(|e| e.to_string())?;
            let tls = connector.connect(name, tcp).await.map_err(failed)?;
            Ok(Stream::Connected(Box::new(tls)))
        }
        [b'N'] if config.sslmode == SslMode::Prefer => Ok(Stream::Plain(tcp)),
        _ => Err("the database server does not offer TLS, and sslmode asks for it".to_owned()),
    }
}

//! Sockets to a database server.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use super::Place;
use crate::config::Upstream;
use crate::server::stream::Stream;

/// Opens one; nothing is sent.
pub(super) async fn open(place: &Place, config: &Upstream) -> Result<Stream, String> {
    let words = |e: std::io::Error| e.to_string();
    match place {
        Place::Unix(path) => Ok(Stream::Local(UnixStream::connect(path).await.map_err(words)?)),
        Place::Tcp(_, address) => {
            let tcp = TcpStream::connect(address).await.map_err(words)?;
            tune(&tcp, config).map_err(words)?;
            Ok(Stream::Plain(tcp))
        }
    }
}

/// A peer that is gone without a word is noticed by keepalives, and by the bound on what it has not acknowledged.
fn tune(tcp: &TcpStream, config: &Upstream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    let mut keepalive = TcpKeepalive::new();
    if config.keepalives_idle > 0 {
        keepalive = keepalive.with_time(Duration::from_secs(config.keepalives_idle));
    }
    if config.keepalives_interval > 0 {
        keepalive = keepalive.with_interval(Duration::from_secs(config.keepalives_interval));
    }
    if config.keepalives_count > 0 {
        keepalive = keepalive.with_retries(u32::try_from(config.keepalives_count).unwrap_or(u32::MAX));
    }
    socket.set_tcp_keepalive(&keepalive)?;
    if config.tcp_user_timeout > 0 {
        socket.set_tcp_user_timeout(Some(Duration::from_millis(config.tcp_user_timeout)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_is_told_of_keepalives() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = Place::Tcp("localhost".to_owned(), listener.local_addr().unwrap());
        let config = Upstream {
            keepalives_idle: 41,
            keepalives_interval: 7,
            keepalives_count: 3,
            tcp_user_timeout: 12_000,
            ..Upstream::default()
        };
        let Stream::Plain(tcp) = open(&place, &config).await.unwrap() else {
            panic!("not TCP");
        };
        let socket = SockRef::from(&tcp);
        assert!(socket.keepalive().unwrap() && tcp.nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(41));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(12)));
    }
}

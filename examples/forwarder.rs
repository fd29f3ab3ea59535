//! The cheapest thing that can stand between a client and a server: bytes from one socket to the other, on one thread. `tools/bench-compare` measures
//! proxies against it. `forwarder LISTEN UPSTREAM`, both `host:port`.

use tokio::net::{TcpListener, TcpStream};

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(listen), Some(upstream)) = (arguments.next(), arguments.next()) else {
        return Err(std::io::Error::other("forwarder LISTEN UPSTREAM"));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (mut client, _) = listener.accept().await?;
            let upstream = upstream.clone();
            tokio::spawn(async move {
                let Ok(mut server) = TcpStream::connect(upstream).await else {
                    return;
                };
                let _slower = (client.set_nodelay(true), server.set_nodelay(true));
                let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    })
}

//! sd_notify(3): tells systemd how things stand, where `NOTIFY_SOCKET` is set. Nobody is waited for, and no failure matters.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What systemd is told.
#[derive(Debug, Clone, Copy)]
pub enum State {
    /// Connections are taken.
    Ready,
    /// The configuration is being read anew; [`State::Ready`] follows.
    Reloading,
    /// The end has begun.
    Stopping,
}

/// Tells it.
pub fn tell(state: State) {
    let text = match state {
        State::Ready => "READY=1\nSTATUS=listening".to_owned(),
        // Type=notify-reload wants the time at which the reload began, to tell it from an earlier one.
        State::Reloading => {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            format!("RELOADING=1\nMONOTONIC_USEC={}{:06}", now.tv_sec, now.tv_nsec / 1000)
        }
        State::Stopping => "STOPPING=1\nSTATUS=waiting for transactions to end".to_owned(),
    };
    if let Err(e) = send(&text) {
        tracing::warn!("systemd cannot be told: {e}");
    }
}

fn send(text: &str) -> std::io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(text.as_bytes(), &address).map(drop)
}

//! CancelRequests: a client's key is its backend's own; one that belongs to no session of ours goes nowhere.

use bytes::{BufMut, Bytes, BytesMut};
use dashmap::DashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::shared::Shared;
use super::upstream::Place;

/// Keys (bodies of BackendKeyData) of running sessions, and the servers that these are on.
#[derive(Default)]
pub struct Registry {
    keys: DashMap<Bytes, Place>,
}

impl Registry {
    pub fn add(&self, key: Bytes, place: Place) {
        self.keys.insert(key, place);
    }

    pub fn remove(&self, key: &Bytes) {
        self.keys.remove(key);
    }

    pub fn place(&self, key: &Bytes) -> Option<Place> {
        self.keys.get(key).map(|place| place.clone())
    }
}

/// Sends a CancelRequest for a backend to the server that it is on, encrypted as its session is, and waits until the server has taken it.
pub async fn send(shared: &Shared, place: &Place, key: &Bytes) -> Result<(), String> {
    let mut stream = shared.upstreams.load_full().connect(place).await?;
    let mut packet = BytesMut::new();
    packet.put_i32(i32::try_from(key.len() + 8).map_err(|e| e.to_string())?);
    packet.put_i32(80_877_102);
    packet.put_slice(key);
    stream.write_all(&packet).await.map_err(|e| e.to_string())?;
    stream.flush().await.map_err(|e| e.to_string())?;
    // The server closes when it has signalled the backend.
    let mut rest = [0_u8; 1];
    let _closed = stream.read(&mut rest).await;
    Ok(())
}

//! CancelRequests: a client's key is its backend's own; one that belongs to no session of ours goes nowhere. The session decides what is to be
//! cancelled: what it holds back itself, or what its backend runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use dashmap::DashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};

use super::shared::Shared;
use super::upstream::Place;

/// Whoever waits for a request to have been carried out: it is when this is dropped.
pub type Waiting = Vec<oneshot::Sender<()>>;

/// Requests to cancel what one session does.
pub struct Requests {
    /// `None`: the session has ended.
    waiting: Mutex<Option<Waiting>>,
    come: Notify,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Some(Waiting::new())),
            come: Notify::new(),
        }
    }
}

impl Requests {
    /// Waits for requests. Nothing is lost where it is dropped.
    pub async fn next(&self) -> Waiting {
        loop {
            let waiting = self.lock().as_mut().map(std::mem::take).unwrap_or_default();
            if !waiting.is_empty() {
                return waiting;
            }
            self.come.notified().await;
        }
    }

    /// The session has ended: nobody waits for it any more.
    pub fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the session, and waits until it has done what is to be done.
    async fn ask(&self) {
        let (done, over) = oneshot::channel();
        match self.lock().as_mut() {
            Some(waiting) => waiting.push(done),
            None => return,
        }
        self.come.notify_one();
        let _over = over.await;
    }
}

/// Keys (bodies of BackendKeyData) of running sessions.
#[derive(Default)]
pub struct Registry {
    keys: DashMap<Bytes, Arc<Requests>>,
}

impl Registry {
    pub fn add(&self, key: Bytes, requests: Arc<Requests>) {
        self.keys.insert(key, requests);
    }

    pub fn remove(&self, key: &Bytes) {
        self.keys.remove(key);
    }

    /// Has the session with this key cancel what it does, if there is one, and waits until it has.
    pub async fn request(&self, key: &Bytes) {
        // The map is not locked while it is waited for.
        let requests = self.keys.get(key).map(|r| Arc::clone(&r));
        if let Some(requests) = requests {
            requests.ask().await;
        }
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

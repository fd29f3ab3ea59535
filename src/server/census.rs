//! How many clients there are: in all, before authentication, per login, per address. A seat is given back when it is dropped,
//! however the connection ended.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::limits::Limits;
use crate::wire::Refusal;

/// The counts.
#[derive(Debug, Default)]
pub struct Census {
    open: AtomicUsize,
    unauthenticated: AtomicUsize,
    logins: Counts<String>,
    addresses: Counts<IpAddr>,
}

/// One connection's part in them.
#[derive(Debug)]
pub struct Seat {
    census: Arc<Census>,
    authenticated: bool,
    login: Option<String>,
    address: Option<IpAddr>,
}

impl Census {
    /// Connections now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// A seat for an accepted connection.
    ///
    /// # Errors
    /// 53300.
    pub fn admit(self: &Arc<Self>, limits: &Limits) -> Result<Seat, Refusal> {
        if !add(&self.open, limits.sessions_max) {
            let hint = format!("at most {} connections at once (sessions_max)", limits.sessions_max);
            return Err(full("sessions-max", "sorry, too many clients already".to_owned(), hint));
        }
        if !add(&self.unauthenticated, limits.unauthenticated_max) {
            self.open.fetch_sub(1, Ordering::SeqCst);
            let hint = format!(
                "at most {} connections at once that have not logged in yet (unauthenticated_max)",
                limits.unauthenticated_max
            );
            let message = "sorry, too many clients are logging in already".to_owned();
            return Err(full("unauthenticated-max", message, hint));
        }
        Ok(Seat {
            census: Arc::clone(self),
            authenticated: false,
            login: None,
            address: None,
        })
    }
}

impl Seat {
    /// It comes from here.
    ///
    /// # Errors
    /// 53300.
    pub fn from(&mut self, address: IpAddr, limits: &Limits) -> Result<(), Refusal> {
        let Some(most) = limits.sessions_per_address_max else {
            return Ok(());
        };
        if !self.census.addresses.add(&address, most) {
            let hint = format!("at most {most} connections at once from one address (sessions_per_address_max)");
            let message = format!("too many connections from address {address}");
            return Err(full("sessions-per-address-max", message, hint));
        }
        self.address = Some(address);
        Ok(())
    }

    /// It wants to be this login's.
    ///
    /// # Errors
    /// 53300.
    pub fn of(&mut self, login: &str, limits: &Limits) -> Result<(), Refusal> {
        let Some(most) = limits.sessions_per_login_max else {
            return Ok(());
        };
        let login = login.to_owned();
        if !self.census.logins.add(&login, most) {
            let hint = format!("at most {most} connections at once of one login (sessions_per_login_max)");
            // PostgreSQL's words for CONNECTION LIMIT.
            let message = format!("too many connections for role \"{login}\"");
            return Err(full("sessions-per-login-max", message, hint));
        }
        self.login = Some(login);
        Ok(())
    }

    /// The server has accepted the login.
    pub fn authenticated(&mut self) {
        if !std::mem::replace(&mut self.authenticated, true) {
            self.census.unauthenticated.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.authenticated();
        if let Some(login) = &self.login {
            self.census.logins.remove(login);
        }
        if let Some(address) = &self.address {
            self.census.addresses.remove(address);
        }
        self.census.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn full(rule: &'static str, message: String, hint: String) -> Refusal {
    Refusal {
        sqlstate: "53300",
        rule,
        message,
        hint: hint.into(),
        position: None,
        incident: false,
    }
}

fn add(count: &AtomicUsize, most: usize) -> bool {
    let more = |n: usize| (n < most).then_some(n + 1);
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
}

#[derive(Debug)]
struct Counts<K>(Mutex<HashMap<K, usize>>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Hash + Eq + Clone> Counts<K> {
    fn add(&self, key: &K, most: usize) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(key).copied().unwrap_or(0);
        if count >= most {
            return false;
        }
        counts.insert(key.clone(), count + 1);
        true
    }

    fn remove(&self, key: &K) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(key);
            }
        }
    }
}

//! What a session is judged and charged by now. It is made from policy, catalog and what the server said of the session's settings, and kept while
//! none of them changes: most statements come under the same as the one before.

use std::sync::Arc;

use jiff::Timestamp;

use super::owed::{Charge, Key, Under};
use super::{Known, Session};
use crate::guard::{ContextNumber, Ground, Late};
use crate::principal::Principal;

/// What holds now.
pub(super) struct Standpoint {
    ground: Arc<Ground>,
    known: Arc<Known>,
    /// Hours and days of grants, purposes and sanctions begin and end with whole seconds: within one, nothing changes.
    second: i64,
    pub key: Arc<Key>,
    /// The key's number, where plans are kept for it.
    pub number: Option<ContextNumber>,
    pub charge: Arc<Charge>,
}

impl Standpoint {
    fn holds(&self, ground: &Arc<Ground>, known: &Arc<Known>, second: i64) -> bool {
        self.second == second && Arc::ptr_eq(&self.known, known) && Arc::ptr_eq(&self.ground, ground)
    }
}

impl Session {
    /// The standpoint, on this ground and by the settings that are known; `None` where they never have been.
    pub(super) fn standpoint(&mut self, ground: &Arc<Ground>, now: Timestamp) -> Option<&Standpoint> {
        let known = self.known.as_ref()?;
        let second = now.as_second();
        let late = self.late(ground);
        let holds = |s: &Standpoint| s.holds(ground, known, second) && s.key.late == late;
        if !self.standpoint.as_ref().is_some_and(holds) {
            let known = Arc::clone(known);
            let standing = ground.policy.standing(&self.principal(ground), &known.declared, now);
            let key = Key {
                standing,
                search_path: known.search_path.clone(),
                current_user: known.current_user.clone(),
                policy: ground.policy.epoch,
                catalog: ground.catalog.epoch,
                late,
            };
            // An equal one stays the same one: then equality is that of two addresses.
            let old = self.standpoint.take();
            let (key, number) = match &old {
                Some(old) if *old.key == key => (Arc::clone(&old.key), old.number),
                Some(_) | None => {
                    // What an open transaction has made of the catalog is nobody else's.
                    let judge = self.judge.as_ref().filter(|_| self.own_ground.is_none());
                    let number = judge.and_then(|judge| judge.number(&key));
                    (Arc::new(key), number)
                }
            };
            let under = match old.and_then(|old| old.charge.under.clone()) {
                Some(under) if under.1 == key.policy && under.0 == key.standing => under,
                Some(_) | None => Under::new((key.standing.clone(), key.policy)),
            };
            let charge = Arc::new(Charge {
                limits: Arc::from(ground.policy.limits(&key.standing)),
                sanctioned: ground.policy.sanctioned(&self.login, now),
                under: Some(under),
            });
            self.standpoint = Some(Standpoint {
                ground: Arc::clone(ground),
                known,
                second,
                key,
                number,
                charge,
            });
        }
        self.standpoint.as_ref()
    }

    /// Whether what the server sends are the characters that it has stored: then Menshen can mask them.
    pub(super) fn masks_late(&self) -> bool {
        self.settings.late_masking && self.server_utf8 && self.encoding == "UTF8"
    }

    /// Whose masked columns may come clear.
    fn late(&self, ground: &Ground) -> Late {
        if !self.masks_late() || self.encoding_unsure {
            Late::Never
        } else if self.holds_portals || ground.reach.runs_text() {
            // What runs text could run what is prepared.
            Late::Queries
        } else {
            Late::Portals
        }
    }

    pub(super) fn principal(&self, ground: &Ground) -> Principal {
        Principal {
            login: self.login.clone(),
            groups: ground.catalog.groups_of(&self.login),
            address: self.settings.address,
        }
    }

    /// The standpoint of the statement before, where nothing has changed since.
    fn same_standpoint(&self, now: Timestamp) -> Option<&Standpoint> {
        let (point, known) = (self.standpoint.as_ref()?, self.known.as_ref()?);
        let ground = match (&self.own_ground, &self.judge) {
            (Some(own), _) => Arc::ptr_eq(own, &point.ground),
            (None, Some(judge)) => judge.is_ground(&point.ground),
            (None, None) => false,
        };
        (ground
            && point.key.late == self.late(&point.ground)
            && point.second == now.as_second()
            && Arc::ptr_eq(&point.known, known))
        .then_some(point)
    }

    /// The key that a plan made now would have. `None`: settings must be asked first (and are, when a judgement needs them).
    pub(super) fn key_now(&mut self, now: Timestamp) -> Option<Arc<Key>> {
        if self.stale || self.is_behind() {
            return None;
        }
        if let Some(point) = self.same_standpoint(now) {
            return Some(Arc::clone(&point.key));
        }
        let ground = self.ground()?;
        self.standpoint(&ground, now).map(|s| Arc::clone(&s.key))
    }

    /// Standing and policy that hold now, whatever has become of the catalog; `None`: settings must be asked first.
    pub(super) fn under_now(&mut self, now: Timestamp) -> Option<Under> {
        if self.stale {
            return None;
        }
        let ground = self.ground()?;
        self.standpoint(&ground, now).and_then(|s| s.charge.under.clone())
    }

    /// Whose limits hold for what is started now.
    pub(super) fn charge_now(&mut self, now: Timestamp) -> Arc<Charge> {
        let stale = self.stale;
        if !stale && let Some(point) = self.same_standpoint(now) {
            return Arc::clone(&point.charge);
        }
        let ground = self.ground();
        match ground.and_then(|ground| self.standpoint(&ground, now)) {
            Some(standpoint) if !stale => Arc::clone(&standpoint.charge),
            Some(standpoint) => Arc::new(Charge {
                limits: Arc::clone(&standpoint.charge.limits),
                sanctioned: standpoint.charge.sanctioned,
                under: None,
            }),
            None => Arc::new(Charge {
                limits: Arc::default(),
                sanctioned: false,
                under: None,
            }),
        }
    }
}

//! What all connections have in common.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::access::Visitor;
use super::cancel::Registry;
use super::census::Census;
use super::client_tls::Gate;
use super::keeper::Keeper;
use super::large::LargeTexts;
use super::upstream::{Place, Upstreams};
use crate::alert::{Alert, Alerts};
use crate::audit::{Audit, AuditError};
use crate::config::{self, Config};
use crate::ledger::{Ledger, Pack, pack};
use crate::policy::{Policy, Problem};
use crate::wire::Refusal;

/// Policy and threshold pack that are in force.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Its pack.
    pub pack: Option<Arc<Pack>>,
}

/// Loads the policy and its pack, and checks one against the other. Gives warnings besides.
///
/// # Errors
/// Every mistake.
pub fn load_rules(path: &std::path::Path, epoch: u64) -> Result<(Rules, Vec<Problem>), Vec<Problem>> {
    let (policy, warnings) = Policy::load(path, epoch)?;
    let pack = match &policy.thresholds {
        None => None,
        Some(name) => Some(Arc::new(Pack::find(name, path)?)),
    };
    let problems = pack::check_policy(path, &policy, pack.as_deref());
    if problems.is_empty() {
        Ok((
            Rules {
                policy: Arc::new(policy),
                pack,
            },
            warnings,
        ))
    } else {
        Err(problems)
    }
}

/// What all connections have in common.
pub struct Shared {
    /// The configuration.
    pub config: Config,
    /// The configuration as it was read last: for what a reload changes. `config` is that of the start.
    pub(super) live: ArcSwap<Config>,
    /// Policy and pack.
    pub rules: ArcSwap<Rules>,
    /// The ledger.
    pub ledger: Arc<Ledger>,
    audit: Audit,
    alerts: Alerts,
    /// Key of the token mask.
    pub token_key: [u8; 32],
    /// Running backends, for CancelRequests.
    pub(super) cancels: Registry,
    /// One keeper of policy and catalog per server and database.
    pub(super) keepers: Mutex<HashMap<(Place, String), Arc<Keeper>>>,
    /// Who may come in. [`Shared::admit_by`] exchanges it.
    pub(super) gate: ArcSwap<Gate>,
    /// How many have.
    pub(super) census: Arc<Census>,
    /// The database servers.
    pub(super) upstreams: ArcSwap<Upstreams>,
    /// Where large texts are judged.
    pub(super) large_texts: LargeTexts,
    next_session: AtomicU64,
}

impl Shared {
    /// Opens everything that a proxy needs.
    ///
    /// # Errors
    /// A sentence for the operator; for a bad policy, a line per mistake.
    pub fn open(config: Config) -> Result<Self, String> {
        let (rules, warnings) = load_rules(&config.policy, 1)
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let key = config::key(&config.key_file)?;
        let ledger = Ledger::open(&config.ledger, &key).map_err(|e| e.to_string())?;
        let audit = Audit::open(&config.audit, Timestamp::now()).map_err(|e| e.to_string())?;
        let alerts = Alerts::start(&config.alerts, &config.outbox).map_err(|e| e.to_string())?;
        let gate = Gate::open(config.channel.clone())?;
        let upstreams = ArcSwap::from_pointee(Upstreams::new(&config.upstream)?);
        Ok(Self {
            rules: ArcSwap::from_pointee(rules),
            ledger: Arc::new(ledger),
            audit,
            alerts,
            token_key: crate::mask::token_key(&key),
            cancels: Registry::default(),
            keepers: Mutex::new(HashMap::new()),
            gate: ArcSwap::from_pointee(gate),
            census: Arc::default(),
            upstreams,
            large_texts: LargeTexts::start().map_err(|e| format!("a thread: {e}"))?,
            next_session: AtomicU64::new(1),
            live: ArcSwap::from_pointee(config.clone()),
            config,
        })
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.rules.load().policy)
    }

    /// All keepers.
    pub(super) fn keepers(&self) -> Vec<Arc<Keeper>> {
        let keepers = self.keepers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        keepers.values().cloned().collect()
    }

    /// A number for a session.
    pub fn session_id(&self) -> u64 {
        self.next_session.fetch_add(1, Ordering::Relaxed)
    }

    /// Appends to the audit log.
    ///
    /// # Errors
    /// Where it can't be written: what it is about must not happen.
    pub fn audit(&self, event: &str, facts: Value) -> Result<(), AuditError> {
        self.audit.append(event, facts, Timestamp::now())
    }

    /// Takes over who may come in from a configuration that was read anew. Sessions that are in stay in.
    ///
    /// # Errors
    /// Where its files can't be used: a sentence for the operator. The old one stays in force.
    pub fn admit_by(&self, channel: crate::config::channel::Channel) -> Result<(), String> {
        self.gate.store(Arc::new(Gate::open(channel)?));
        Ok(())
    }

    /// Notes that a client was not let in; `wish` is the login and database it asked for.
    pub(super) fn audit_refused(&self, visitor: &Visitor, wish: Option<(&str, &str)>, refusal: &Refusal) {
        let facts = json!({
            "action": "refuse",
            "sqlstate": refusal.sqlstate,
            "rule": refusal.rule,
            "message": refusal.message,
            "login": wish.map(|(login, _)| login),
            "database": wish.map(|(_, database)| database),
            "address": visitor.address.to_string(),
            "via": visitor.via.map(|v| v.to_string()),
            "encrypted": visitor.encrypted,
            "certificate": visitor.certificate.clone().flatten(),
        });
        // It is refused whether or not that can be kept.
        if let Err(e) = self.audit("connection-refused", facts) {
            tracing::error!("{e}");
        }
    }

    /// Raises an alert. One that can't be put on disk is at least shouted.
    pub fn raise(&self, kind: &str, account: Option<String>, message: String, details: Value) {
        let mut id = [0_u8; 16];
        let _weak = getrandom::fill(&mut id);
        let alert = Alert {
            id: hex::encode(id),
            kind: kind.to_owned(),
            at: Timestamp::now(),
            account,
            message,
            details,
        };
        if let Err(e) = self.alerts.raise(&alert) {
            tracing::error!("alert could not be kept: {e}: {}", alert.message);
        }
    }
}

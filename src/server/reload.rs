//! Reading files anew: the policy on SIGHUP and when its file changes, `menshen.toml` on SIGHUP. A broken file leaves the old one in force.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::shared::{Shared, load_rules};
use super::systemd;
use super::upstream::Upstreams;
use crate::config::Config;

/// Watches the policy file, and waits for SIGHUP.
///
/// # Errors
/// Where the system does not tell of signals.
pub(super) fn watch(shared: &Arc<Shared>) -> std::io::Result<()> {
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    let (changed, mut changes) = tokio::sync::mpsc::channel::<()>(16);
    let watcher = watch_file(&shared.config.policy, changed);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        // Dropping the watcher would end the watch.
        let _watcher = watcher;
        loop {
            tokio::select! {
                signal = hangup.recv() => {
                    if signal.is_none() {
                        return;
                    }
                    systemd::tell(systemd::State::Reloading);
                    configuration(&shared);
                    policy(&shared).await;
                    systemd::tell(systemd::State::Ready);
                    continue;
                }
                change = changes.recv() => {
                    if change.is_none() {
                        return;
                    }
                    // Editors write in several steps.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    while changes.try_recv().is_ok() {}
                }
            }
            policy(&shared).await;
        }
    });
    Ok(())
}

fn watch_file(policy: &Path, changed: tokio::sync::mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    use notify::Watcher;
    let directory = policy
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // The directory is watched, not the file: editors put a new file in the old one's place. Other files in it are not our affair.
    let name = policy.file_name().map(std::ffi::OsStr::to_owned);
    let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let ours = |e: &notify::Event| e.paths.iter().any(|p| p.file_name() == name.as_deref());
        if event.is_ok_and(|e| !e.kind.is_access() && ours(&e)) {
            let _full = changed.try_send(());
        }
    })
    .and_then(|mut watcher| {
        watcher
            .watch(directory, notify::RecursiveMode::NonRecursive)
            .map(|()| watcher)
    });
    match made {
        Ok(watcher) => Some(watcher),
        Err(e) => {
            tracing::warn!("the policy file is not watched ({e}); send SIGHUP after changes");
            None
        }
    }
}

/// Reads `menshen.toml` anew. What counts for new connections is taken over; the rest is named, and waits for a restart.
fn configuration(shared: &Arc<Shared>) {
    let old = shared.live.load_full();
    let loaded = Config::load(&old.file, &old.overrides).map_err(|problems| {
        let list: Vec<String> = problems.iter().map(ToString::to_string).collect();
        list
    });
    let made = loaded.and_then(|new| match Upstreams::new(&new.upstream) {
        Ok(upstreams) => Ok((new, upstreams)),
        Err(why) => Err(vec![why]),
    });
    let (new, upstreams) = match made {
        Ok(made) => made,
        Err(list) => {
            for line in &list {
                tracing::error!("{line}");
            }
            tracing::error!("the configuration is broken: the old one stays in force");
            audit(shared, "configuration-rejected", json!({ "problems": list }));
            return;
        }
    };
    let changed = old.changed(&new);
    if let Err(why) = shared.admit_by(new.channel.clone()) {
        tracing::error!("{why}");
        tracing::error!("the configuration is broken: the old one stays in force");
        audit(shared, "configuration-rejected", json!({ "problems": [why] }));
        return;
    }
    // In any case: its files may have changed.
    shared.upstreams.store(Arc::new(upstreams));
    for (key, reloads) in &changed {
        if *reloads {
            tracing::info!(key, "configuration reloaded");
        } else {
            tracing::warn!(key, "changed in the configuration; this key needs a restart");
        }
    }
    let names = |reloads: bool| -> Vec<&str> { changed.iter().filter(|c| c.1 == reloads).map(|c| c.0).collect() };
    let facts = json!({ "reloaded": names(true), "needs_restart": names(false) });
    shared.live.store(Arc::new(new));
    if !changed.is_empty() {
        audit(shared, "configuration-reloaded", facts);
    }
}

fn audit(shared: &Shared, event: &str, facts: serde_json::Value) {
    if let Err(e) = shared.audit(event, facts) {
        tracing::error!("{e}");
    }
}

/// Loads the policy anew. A broken file leaves the old one in force and says so loudly.
async fn policy(shared: &Arc<Shared>) {
    let old = shared.rules.load_full();
    match load_rules(&shared.config.policy, old.policy.epoch + 1) {
        Ok((rules, warnings)) => {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            let rules = Arc::new(rules);
            shared.rules.store(Arc::clone(&rules));
            for keeper in shared.keepers() {
                if let Err(e) = keeper.adopt(Arc::clone(&rules)).await {
                    tracing::error!("policy not adopted for database {}: {e}", keeper.database);
                }
            }
            tracing::info!(epoch = rules.policy.epoch, "policy reloaded");
            if let Err(e) = shared.audit("policy-reloaded", json!({ "epoch": rules.policy.epoch })) {
                tracing::error!("{e}");
            }
        }
        Err(problems) => {
            let list: Vec<String> = problems.iter().map(ToString::to_string).collect();
            for line in &list {
                tracing::error!("{line}");
            }
            tracing::error!(
                "the policy file is broken: the policy of epoch {} stays in force",
                old.policy.epoch
            );
            if let Err(e) = shared.audit(
                "policy-rejected",
                json!({ "problems": list, "epoch": old.policy.epoch }),
            ) {
                tracing::error!("{e}");
            }
            shared.raise(
                "policy",
                None,
                "the policy file is broken; the old policy stays in force".to_owned(),
                json!({ "problems": list, "epoch": old.policy.epoch }),
            );
        }
    }
}

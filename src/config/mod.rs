//! `menshen.toml`: read, checked and resolved; every mistake reported at once. Paths in it are relative to the file's own
//! directory. DESIGN §9 is the format.

pub mod access;
pub mod channel;
pub mod limits;
pub mod tls;
mod upstream;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use crate::alert::SinkConfig;
use crate::policy::Problem;
use crate::policy::reader::{Reader, Section};
pub use upstream::{Host, RootCert, SslMode, TargetSessionAttrs, Upstream};

const MIB: u64 = 1024 * 1024;

/// The resolved configuration. Every key has a default.
#[derive(Debug, Clone)]
pub struct Config {
    /// `listen`. *Default: `127.0.0.1:6432`*
    pub listen: String,
    /// `policy`. *Default: `policy.toml`*
    pub policy: PathBuf,
    /// `key_file`: 32 random bytes in hex, made with mode 0600 at the first start. *Default: `var/menshen.key`*
    pub key_file: PathBuf,
    /// `[upstream]`
    pub upstream: Upstream,
    /// `[ledger] path`. *Default: `var/ledger`*
    pub ledger: PathBuf,
    /// `[audit] path`. *Default: `var/audit`*
    pub audit: PathBuf,
    /// `[[alerts]]`. *Default: the log*
    pub alerts: Vec<SinkConfig>,
    /// Undelivered alerts: `outbox` beside the ledger.
    pub outbox: PathBuf,
    /// `[tls]`, `[[access]]`, `proxy_protocol`: who may come in, and how. Reloadable.
    pub channel: channel::Channel,
    /// `[catalog] refresh_seconds`. *Default: 60*
    pub refresh_seconds: u64,
    /// `threads`: how many run sessions. *Default: as many as there are processors*
    pub threads: usize,
    /// `[plans] late_masking`: whether columns that are only output may come clear from the server, to be masked as they pass. *Default: true*
    pub late_masking: bool,
    /// `[plans] memory_mib`, in bytes: what plans by statement shape may take for each database; 0 keeps none. *Default: 64 MiB*
    pub plan_bytes: u64,
    /// `[limits]`.
    pub limits: limits::Limits,
    /// The file it was read from, for a reload.
    pub file: PathBuf,
    /// What the command line said besides.
    pub overrides: Overrides,
}

/// What the command line says besides.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--listen`
    pub listen: Option<String>,
    /// `--upstream`: hosts, separated by commas
    pub upstream: Option<String>,
    /// `--policy`
    pub policy: Option<PathBuf>,
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, Vec<Problem>> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| vec![Problem::of_file(path, format!("cannot read the configuration: {e}"))])?;
        let mut reader = Reader::new(path, &text);
        let Some(table) = reader.parse() else {
            return Err(reader.problems);
        };
        let mut config = read(
            &mut reader,
            &Section::root(&table),
            path.parent().unwrap_or(Path::new(".")),
        );
        path.clone_into(&mut config.file);
        config.overrides = overrides.clone();
        if let Some(listen) = &overrides.listen {
            config.listen.clone_from(listen);
        }
        if let Some(hosts) = &overrides.upstream {
            config.upstream.hosts = Vec::new();
            for host in hosts.split(',') {
                match Host::parse(host) {
                    Ok(host) => config.upstream.hosts.push(host),
                    Err(why) => reader.error(&(0..0), format!("upstream `{host}`: {why}"), None),
                }
            }
        }
        if let Some(policy) = &overrides.policy {
            config.policy.clone_from(policy);
        }
        if let Err(e) = resolve(&config.listen) {
            reader.error(
                &(0..0),
                format!("listen address `{}`: {e}", config.listen),
                Some("write host:port".to_owned()),
            );
        }
        if reader.failed() {
            Err(reader.problems)
        } else {
            Ok(config)
        }
    }
}

impl Config {
    /// The keys that another reading of the file has changed, and whether they count without a restart.
    #[must_use]
    pub fn changed(&self, new: &Self) -> Vec<(&'static str, bool)> {
        // Patterns have no equality, but they are shown as they were written.
        let channel = |config: &Self| format!("{:?}", config.channel);
        let parts = [
            ("upstream", self.upstream != new.upstream, true),
            ("tls, access, proxy_protocol", channel(self) != channel(new), true),
            ("limits", self.limits != new.limits, true),
            ("listen", self.listen != new.listen, false),
            ("policy", self.policy != new.policy, false),
            ("key_file", self.key_file != new.key_file, false),
            ("ledger", self.ledger != new.ledger, false),
            ("audit", self.audit != new.audit, false),
            ("alerts", self.alerts != new.alerts, false),
            ("catalog", self.refresh_seconds != new.refresh_seconds, false),
            ("threads", self.threads != new.threads, false),
            (
                "plans",
                self.plan_bytes != new.plan_bytes || self.late_masking != new.late_masking,
                false,
            ),
        ];
        let changed = parts.into_iter().filter(|(_, differs, _)| *differs);
        changed.map(|(key, _, reloads)| (key, reloads)).collect()
    }
}

/// The first address of `host:port`.
///
/// # Errors
/// Where it does not resolve.
pub fn resolve(address: &str) -> Result<SocketAddr, String> {
    address
        .to_socket_addrs()
        .map_err(|e| e.to_string())?
        .next()
        .ok_or_else(|| "no address".to_owned())
}

fn read<'t>(reader: &mut Reader<'t>, root: &Section<'t>, base: &Path) -> Config {
    reader.known(
        root,
        &[
            "listen",
            "policy",
            "key_file",
            "upstream",
            "ledger",
            "audit",
            "alerts",
            "tls",
            "access",
            "proxy_protocol",
            "catalog",
            "plans",
            "threads",
            "limits",
        ],
    );
    let at = |path: String| base.join(path);
    let text = |reader: &mut Reader<'t>, section: &Section<'t>, key: &str, default: &str| {
        reader
            .string(section, key)
            .map_or_else(|| default.to_owned(), |(t, _)| t)
    };
    let mut config = Config {
        listen: text(reader, root, "listen", "127.0.0.1:6432"),
        policy: at(text(reader, root, "policy", "policy.toml")),
        key_file: at(text(reader, root, "key_file", "var/menshen.key")),
        upstream: upstream::read(reader, root, base),
        ledger: at("var/ledger".to_owned()),
        audit: at("var/audit".to_owned()),
        alerts: vec![SinkConfig::Log],
        outbox: PathBuf::new(),
        channel: channel::read(reader, root, base),
        refresh_seconds: 60,
        late_masking: true,
        plan_bytes: 64 * MIB,
        threads: 1,
        limits: limits::read(reader, root),
        file: PathBuf::new(),
        overrides: Overrides::default(),
    };
    for (name, place) in [("ledger", &mut config.ledger), ("audit", &mut config.audit)] {
        if let Some(section) = reader.section(root, name) {
            reader.known(&section, &["path"]);
            if let Some((path, _)) = reader.string(&section, "path") {
                *place = at(path);
            }
        }
    }
    config.outbox = config.ledger.parent().unwrap_or(base).join("outbox");
    if root.get("alerts").is_some() {
        config.alerts = sinks(reader, root, base);
    }
    if let Some(catalog) = reader.section(root, "catalog") {
        reader.known(&catalog, &["refresh_seconds"]);
        config.refresh_seconds = bounded(reader, &catalog, "refresh_seconds", 60, 1, 86_400);
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = bounded(reader, root, "threads", u64::try_from(processors).unwrap_or(1), 1, 1024);
    config.threads = usize::try_from(threads).unwrap_or(1);
    if let Some(plans) = reader.section(root, "plans") {
        reader.known(&plans, &["memory_mib", "late_masking"]);
        config.late_masking = reader.flag(&plans, "late_masking").unwrap_or(true);
        config.plan_bytes = bounded(reader, &plans, "memory_mib", 64, 0, 65_536) * MIB;
    }
    config
}

fn bounded<'t>(reader: &mut Reader<'t>, section: &Section<'t>, key: &str, default: u64, least: u64, most: u64) -> u64 {
    match reader.integer(section, key) {
        None => default,
        Some((n, span)) => match u64::try_from(n).ok().filter(|n| (least..=most).contains(n)) {
            Some(n) => n,
            None => {
                reader.error(&span, format!("`{key}` must lie between {least} and {most}"), None);
                default
            }
        },
    }
}

fn sinks<'t>(reader: &mut Reader<'t>, root: &Section<'t>, base: &Path) -> Vec<SinkConfig> {
    let mut sinks = Vec::new();
    for section in reader.array(root, "alerts") {
        let Some((sink, span)) = reader.required(&section, "sink") else {
            continue;
        };
        match sink.as_str() {
            "log" => {
                reader.known(&section, &["sink"]);
                sinks.push(SinkConfig::Log);
            }
            "file" => {
                reader.known(&section, &["sink", "path"]);
                if let Some((path, _)) = reader.required(&section, "path") {
                    sinks.push(SinkConfig::File { path: base.join(path) });
                }
            }
            "webhook" => {
                reader.known(&section, &["sink", "url", "secret_file"]);
                let secret_file = reader.string(&section, "secret_file").map(|(p, _)| base.join(p));
                if let Some((url, span)) = reader.required(&section, "url") {
                    if !url.starts_with("http://") && !url.starts_with("https://") {
                        reader.error(&span, format!("url `{url}` is neither http:// nor https://"), None);
                    }
                    sinks.push(SinkConfig::Webhook { url, secret_file });
                }
            }
            other => reader.error(&span, format!("sink `{other}` is none of log, file, webhook"), None),
        }
    }
    sinks
}

/// The proxy's secret key: 32 bytes in hex in a file that only its owner can read; made where it is missing.
///
/// # Errors
/// Where it can't be read or made, is not such a key, or others can read it.
pub fn key(path: &Path) -> Result<[u8; 32], String> {
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let say = |e: &dyn std::fmt::Display| format!("key file {}: {e}", path.display());
    if !path.exists() {
        let mut key = [0_u8; 32];
        getrandom::fill(&mut key).map_err(|e| say(&e))?;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| say(&e))?;
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| say(&e))?;
        writeln!(file, "{}", hex::encode(key))
            .and_then(|()| file.sync_all())
            .map_err(|e| say(&e))?;
        return Ok(key);
    }
    let mode = std::fs::metadata(path).map_err(|e| say(&e))?.mode();
    if mode & 0o077 != 0 {
        return Err(say(&"others can read it; chmod 600"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| say(&e))?;
    let bytes = hex::decode(text.trim()).map_err(|_| say(&"it is not 64 hex digits"))?;
    bytes.try_into().map_err(|_| say(&"it is not 64 hex digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("menshen.toml");
        std::fs::write(
            &path,
            "listn = \"x\"\n[upstream]\nsslmode = \"maybe\"\n[[alerts]]\nsink = \"pigeon\"\n",
        )
        .unwrap();
        let problems = Config::load(&path, &Overrides::default()).unwrap_err();
        let all = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for part in [
            "did you mean `listen`?",
            ":3:11: error: sslmode `maybe`",
            "sink `pigeon`",
        ] {
            assert!(all.contains(part), "{part} not in\n{all}");
        }
    }

    #[test]
    fn mistakes_about_clients_are_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("menshen.toml");
        let text = "proxy_protocol = [\"ten\"]\n[tls]\nmode = \"maybe\"\nmin_version = \"1.1\"\nclient_cert = \"verify-full\"\n\
                    [[tls.logins]]\nname = \"x\"\n[[access]]\nlogin = \"x\"\n[[access]]\naction = \"allow\"\nnetworks = []\n\
                    [[access]]\naction = \"perhaps\"\nlogins = \"[\"\ntls = \"yes\"\n[limits]\nsessions_max = 0\nidle = 3\n";
        std::fs::write(&path, text).unwrap();
        let problems = Config::load(&path, &Overrides::default()).unwrap_err();
        let all = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for part in [
            "`ten` is not a network",
            "mode `maybe` is none of off, optional, required",
            "min_version `1.1` is none of 1.2, 1.3",
            "need `client_ca`",
            "[tls] lacks the key `cert`",
            "[tls] lacks the key `key`",
            "unknown key `name` in [[logins]]",
            "[[tls.logins]] lacks `logins`",
            "unknown key `login` in [[access]]; did you mean `logins`?",
            "[[access]] lacks the key `action`",
            "`networks` in [[access]] is empty",
            "action `perhaps` is none of allow, deny",
            "`[` is not a pattern",
            "tls `yes` is none of off, on, certificate",
            "`sessions_max` must lie between 1 and",
            "unknown key `idle` in [limits]",
        ] {
            assert!(all.contains(part), "{part} not in\n{all}");
        }
        let contradiction = "[tls]\ncert = \"c\"\nkey = \"k\"\nclient_ca = \"a\"\nmode = \"optional\"\n";
        std::fs::write(&path, contradiction).unwrap();
        let problems = Config::load(&path, &Overrides::default()).unwrap_err();
        assert!(
            problems
                .iter()
                .any(|p| p.message.contains("who must show a certificate must encrypt"))
        );
    }

    #[test]
    fn a_key_is_made_once_and_must_be_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("var/menshen.key");
        let made = key(&path).unwrap();
        assert_eq!(key(&path).unwrap(), made);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(key(&path).unwrap_err().contains("chmod 600"));
    }
}

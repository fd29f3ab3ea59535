//! A Menshen in front of the test server.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use menshen::cli::demo::data;

use super::{Postgres, Raw};

pub struct Menshen {
    pub directory: tempfile::TempDir,
    pub port: u16,
    pub database: String,
    child: Child,
}

impl Menshen {
    /// With the demo's policy on a new shop.
    pub fn demo() -> Self {
        Self::with(&demo_policy(), "")
    }

    /// With a policy and more lines of configuration, on a new shop.
    pub fn with(policy: &str, config: &str) -> Self {
        let database = Postgres::get().shop();
        Self::on(&database, policy, config)
    }

    /// On a database.
    pub fn on(database: &str, policy: &str, config: &str) -> Self {
        let upstream = format!("hosts = [\"127.0.0.1:{}\"]", Postgres::get().port);
        Self::behind(&upstream, database, policy, config)
    }

    /// With keys of `[upstream]` other than the service login's.
    pub fn behind(upstream: &str, database: &str, policy: &str, config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("policy.toml"), policy).unwrap();
        std::fs::write(directory.path().join("password"), data::password("menshen")).unwrap();
        write_config(directory.path(), upstream, config);
        let (child, port) = start(directory.path());
        Self {
            directory,
            port,
            database: database.to_owned(),
            child,
        }
    }

    /// Changes `menshen.toml`. It counts after SIGHUP.
    pub fn write_config(&self, upstream: &str, config: &str) {
        write_config(self.directory.path(), upstream, config);
    }

    /// Ends it and starts it anew with a variable of the environment.
    pub fn restart_with(&mut self, name: &str, value: &std::path::Path) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut command = command(self.directory.path());
        command.env(name, value);
        (self.child, self.port) = start_by(command, self.directory.path());
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Ends it without warning and starts it anew.
    pub fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let (child, port) = start(self.directory.path());
        self.child = child;
        self.port = port;
    }

    /// Memory that it has resident, in KiB.
    pub fn rss_kib(&self) -> u64 {
        self.memory_kib("VmRSS:")
    }

    /// The most that it has had resident, in KiB.
    pub fn rss_most_kib(&self) -> u64 {
        self.memory_kib("VmHWM:")
    }

    fn memory_kib(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(what)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(self.child.id().to_string())
            .status()
            .unwrap();
        assert!(sent.success());
    }

    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    /// A client, logged in by SCRAM.
    pub fn connect(&self, login: &str, options: &str) -> Raw {
        Raw::connect(self.port, &self.database, login, &data::password(login), options).unwrap()
    }

    /// A support agent with a case.
    pub fn support(&self) -> Raw {
        self.connect("support", CASE)
    }

    pub fn write_policy(&self, text: &str) {
        std::fs::write(self.directory.path().join("policy.toml"), text).unwrap();
    }

    /// Waits until something is in its log or its audit.
    pub fn wait_for(&self, what: &str) {
        let begun = std::time::Instant::now();
        while !self.log().contains(what) && !self.audit().contains(what) {
            assert!(begun.elapsed().as_secs() < 60, "never told: {what}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    pub fn audit(&self) -> String {
        let directory: PathBuf = self.directory.path().join("var/audit");
        let mut all = String::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "jsonl") {
                all.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
        all
    }
}

pub const CASE: &str = "-c menshen.purpose=customer_service -c menshen.case=CS-004711";

pub fn demo_policy() -> String {
    include_str!("../../policies/demo.toml").to_owned()
}

/// The demo's policy without its limit: the oracle shows everybody many times.
pub fn unlimited_policy() -> String {
    let policy = demo_policy();
    let end = policy.find("[[limits]]").unwrap();
    policy[..end].to_owned()
}

fn write_config(directory: &Path, upstream: &str, config: &str) {
    let text = format!(
        "listen = \"127.0.0.1:0\"\npolicy = \"policy.toml\"\n{config}\n[upstream]\n{upstream}\n\
         service = {{ user = \"menshen\", password_file = \"password\" }}\n"
    );
    std::fs::write(directory.join("menshen.toml"), text).unwrap();
}

fn start(directory: &Path) -> (Child, u16) {
    start_by(command(directory), directory)
}

fn command(directory: &Path) -> Command {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_menshen"));
    command
        .arg("serve")
        .arg("--config")
        .arg(directory.join("menshen.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    command
}

fn start_by(mut command: Command, directory: &Path) -> (Child, u16) {
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let port = line.trim().rsplit(':').next().and_then(|p| p.parse().ok());
    let port = port.unwrap_or_else(|| {
        panic!(
            "menshen does not listen: {line}\n{}",
            std::fs::read_to_string(directory.join("log")).unwrap_or_default()
        )
    });
    (child, port)
}

impl Drop for Menshen {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            let audit = self.audit();
            let last: Vec<&str> = audit.lines().rev().take(3).collect();
            eprintln!("menshen's log:\n{log}\nlast of its audit:\n{}", last.join("\n"));
        }
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

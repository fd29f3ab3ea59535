//! What the demo stands on: a private PostgreSQL, a Menshen, a receiver of alerts, all in one temporary directory that goes
//! with it.

use std::io::{BufRead, BufReader};
use std::net::TcpListener as Listener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::data;

/// The running pieces.
pub struct Stage {
    /// Where Menshen listens.
    pub menshen: u16,
    /// Where the server listens.
    pub postgres: u16,
    /// Bodies of alerts that the webhook has received.
    pub alerts: Arc<Mutex<Vec<String>>>,
    directory: PathBuf,
    servers: Vec<Child>,
}

impl Stage {
    /// Starts everything.
    pub async fn set(people: u32) -> Result<Self, String> {
        let bin = programs()?;
        let directory = std::env::temp_dir().join(format!("menshen-demo-{}", std::process::id()));
        std::fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        let mut stage = Self {
            menshen: 0,
            postgres: free_port()?,
            alerts: Arc::default(),
            directory,
            servers: Vec::new(),
        };
        println!("Starting a private PostgreSQL ({}) …", bin.display());
        stage.start_postgres(&bin).await?;
        println!("Filling a shop with {people} people …");
        let sql = format!(
            "CREATE DATABASE shop;\n\\c shop\n{}{}",
            data::shop_sql(people),
            data::logins_sql()
        );
        stage.psql(&bin, &sql)?;
        let hook = stage.receive_alerts().await?;
        stage.start_menshen(&hook)?;
        Ok(stage)
    }

    async fn start_postgres(&mut self, bin: &Path) -> Result<(), String> {
        let data = self.directory.join("data");
        if is_root() {
            done(Command::new("chown").arg("postgres").arg(&self.directory))?;
        }
        done(
            unprivileged(&bin.join("initdb"))
                .args([
                    "-U",
                    "postgres",
                    "-A",
                    "trust",
                    "-E",
                    "UTF8",
                    "--locale=C.UTF-8",
                    "--no-sync",
                    "-D",
                ])
                .arg(&data),
        )?;
        let hba = "local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(data.join("pg_hba.conf"), hba).map_err(|e| e.to_string())?;
        let log = std::fs::File::create(self.directory.join("postgres.log")).map_err(|e| e.to_string())?;
        let mut command = unprivileged(&bin.join("postgres"));
        command.arg("-D").arg(&data);
        for setting in [
            format!("port={}", self.postgres),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={}", self.directory.display()),
            "fsync=off".to_owned(),
        ] {
            command.arg("-c").arg(setting);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| e.to_string())?;
        self.servers.push(child);
        let begun = Instant::now();
        while self.psql(bin, "SELECT 1;").is_err() {
            if begun.elapsed() > Duration::from_secs(60) {
                return Err("PostgreSQL does not start".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    fn psql(&self, bin: &Path, sql: &str) -> Result<(), String> {
        let script = self.directory.join("script.sql");
        std::fs::write(&script, sql).map_err(|e| e.to_string())?;
        done(
            Command::new(bin.join("psql"))
                .args([
                    "-X",
                    "-q",
                    "-v",
                    "ON_ERROR_STOP=1",
                    "-U",
                    "postgres",
                    "-d",
                    "postgres",
                    "-h",
                ])
                .arg(&self.directory)
                .args(["-p", &self.postgres.to_string(), "-f"])
                .arg(&script),
        )
    }

    /// A webhook receiver that keeps what it gets.
    async fn receive_alerts(&self) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
        let url = format!("http://{}/menshen", listener.local_addr().map_err(|e| e.to_string())?);
        let kept = Arc::clone(&self.alerts);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                let mut chunk = [0_u8; 4096];
                loop {
                    let text = String::from_utf8_lossy(&request).into_owned();
                    if let Some((head, body)) = text.split_once("\r\n\r\n") {
                        let length = head
                            .lines()
                            .find_map(|l| {
                                l.to_ascii_lowercase()
                                    .strip_prefix("content-length:")?
                                    .trim()
                                    .parse::<usize>()
                                    .ok()
                            })
                            .unwrap_or(0);
                        if body.len() >= length {
                            kept.lock()
                                .unwrap_or_else(std::sync::PoisonError::into_inner)
                                .push(body.to_owned());
                            break;
                        }
                    }
                    match stream.read(&mut chunk).await {
                        Ok(n) if n > 0 => request.extend(chunk.iter().take(n)),
                        Ok(_) | Err(_) => break,
                    }
                }
                let _gone = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .await;
            }
        });
        Ok(url)
    }

    fn start_menshen(&mut self, hook: &str) -> Result<(), String> {
        let write = |name: &str, text: &str| std::fs::write(self.directory.join(name), text).map_err(|e| e.to_string());
        write("policy.toml", include_str!("../../../policies/demo.toml"))?;
        write("service.password", &data::password("menshen"))?;
        write(
            "menshen.toml",
            &format!(
                "listen = \"127.0.0.1:0\"\npolicy = \"policy.toml\"\n[upstream]\nhosts = [\"127.0.0.1:{}\"]\n\
                 service = {{ user = \"menshen\", password_file = \"service.password\" }}\n[[alerts]]\nsink = \"webhook\"\nurl = \"{hook}\"\n",
                self.postgres
            ),
        )?;
        let own = std::env::current_exe().map_err(|e| e.to_string())?;
        let log = std::fs::File::create(self.directory.join("menshen.log")).map_err(|e| e.to_string())?;
        let mut child = Command::new(own)
            .args(["serve", "--config"])
            .arg(self.directory.join("menshen.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|e| e.to_string())?;
        let out = child.stdout.take();
        // Last started, first ended.
        self.servers.insert(0, child);
        let mut line = String::new();
        if let Some(out) = out {
            BufReader::new(out).read_line(&mut line).map_err(|e| e.to_string())?;
        }
        self.menshen = line
            .trim()
            .rsplit(':')
            .next()
            .and_then(|p| p.parse().ok())
            .ok_or("Menshen does not listen")?;
        println!("Menshen is {}.", line.trim());
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for server in self.servers.iter_mut() {
            // Menshen and PostgreSQL take SIGINT as an order to end sessions and themselves.
            let _sent = Command::new("kill").arg("-INT").arg(server.id().to_string()).status();
            let begun = Instant::now();
            while matches!(server.try_wait(), Ok(None)) {
                if begun.elapsed() > Duration::from_secs(8) {
                    let _ended = server.kill();
                    let _reaped = server.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let _gone = std::fs::remove_dir_all(&self.directory);
    }
}

/// Directory of PostgreSQL's server programs: the newest under Debian's place, else the first of PATH.
fn programs() -> Result<PathBuf, String> {
    let whole = |b: &PathBuf| b.join("initdb").exists() && b.join("postgres").exists();
    let mut debian: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|d| {
            d.filter_map(Result::ok)
                .map(|e| e.path().join("bin"))
                .filter(whole)
                .collect()
        })
        .unwrap_or_default();
    debian.sort();
    debian
        .pop()
        .or_else(|| {
            std::env::var_os("PATH")
                .iter()
                .flat_map(std::env::split_paths)
                .find(whole)
        })
        .ok_or_else(|| "PostgreSQL's server programs are not installed; run `make setup`".to_owned())
}

fn free_port() -> Result<u16, String> {
    Listener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .map(|a| a.port())
        .map_err(|e| e.to_string())
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|o| o.stdout.starts_with(b"0\n"))
}

/// PostgreSQL does not run as root. `setpriv` becomes the program itself, so that its process id is the server's.
fn unprivileged(program: &Path) -> Command {
    if is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"])
            .arg(program);
        command
    } else {
        Command::new(program)
    }
}

fn done(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

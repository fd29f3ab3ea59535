//! One PostgreSQL for the whole test process, on its own socket and port. A shell in a session of its own watches the test
//! process and ends the server when it is gone, however it went.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use menshen::cli::demo::data;

pub struct Postgres {
    pub port: u16,
    pub log: PathBuf,
    /// Its directory: data, log and socket.
    pub root: PathBuf,
    bin: PathBuf,
}

/// People in the tests' shop.
pub const PEOPLE: u32 = 240;

static SERVER: OnceLock<Postgres> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(1);

impl Postgres {
    /// The server of this process.
    pub fn get() -> &'static Self {
        SERVER.get_or_init(Self::shared)
    }

    fn shared() -> Self {
        let server = Self::initialise("", server_programs());
        server.start(&["max_connections=200", "log_statement=all", "log_line_prefix=%u@%d "]);
        server.fill();
        server
    }

    /// One more server, with the shop in it, for a test that stops it or sets it up differently. It ends with this value.
    pub fn own(settings: &[&str]) -> Self {
        Self::own_of(server_programs(), settings)
    }

    /// The same, of a major version that `.ci/setup` has fetched.
    pub fn of_version(major: u32, settings: &[&str]) -> Self {
        let programs = format!("{}/.postgres/{major}/bin", env!("CARGO_MANIFEST_DIR"));
        Self::own_of(PathBuf::from(programs), settings)
    }

    fn own_of(programs: PathBuf, settings: &[&str]) -> Self {
        let server = Self::initialise(&format!("-{}", NEXT.fetch_add(1, Ordering::SeqCst)), programs);
        server.start(settings);
        server.fill();
        server
    }

    /// A hot standby of a server of [`Postgres::own`], which is stopped and started for it.
    pub fn standby(&self) -> Self {
        self.stop("INT");
        let root = PathBuf::from(format!(
            "{}-{}",
            self.root.display(),
            NEXT.fetch_add(1, Ordering::SeqCst)
        ));
        run(Command::new("cp").arg("-a").arg(&self.root).arg(&root));
        self.start(&[]);
        let standby = Self {
            port: free_port(),
            log: root.join("log"),
            root,
            bin: self.bin.clone(),
        };
        std::fs::write(standby.root.join("data/standby.signal"), "").unwrap();
        let source = format!(
            "primary_conninfo=host={} port={} user=postgres",
            self.root.display(),
            self.port
        );
        standby.start(&[&source]);
        standby
    }

    fn initialise(suffix: &str, programs: PathBuf) -> Self {
        let root = std::env::temp_dir().join(format!("menshen-test-{}{suffix}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let bin = reachable(programs, &root);
        let data = root.join("data");
        if is_root() {
            run(Command::new("chown").arg("-R").arg("postgres").arg(&root));
        }
        run(as_postgres(&bin.join("initdb"))
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
            .arg(&data));
        std::fs::write(data.join("pg_hba.conf"), HBA).unwrap();
        Self {
            port: free_port(),
            log: root.join("log"),
            root,
            bin,
        }
    }

    fn fill(&self) {
        self.sql("postgres", "CREATE DATABASE shop");
        self.sql("shop", &data::shop_sql(PEOPLE));
        self.sql("shop", &data::logins_sql());
        self.sql("shop", include_str!("../cases/views.sql"));
    }

    /// Starts it and waits until it answers.
    pub fn start(&self, settings: &[&str]) {
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", WATCH, "sh"]);
        command.arg(std::process::id().to_string()).arg(&self.root);
        if is_root() {
            command.args(["runuser", "-u", "postgres", "--"]);
        }
        command
            .arg(self.bin.join("postgres"))
            .arg("-D")
            .arg(self.root.join("data"));
        let own = [
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".into(),
            format!("unix_socket_directories={}", self.root.display()),
            "fsync=off".into(),
        ];
        for setting in own.iter().map(String::as_str).chain(settings.iter().copied()) {
            command.arg("-c").arg(setting);
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.unwrap());
        #[expect(
            clippy::zombie_processes,
            reason = "it outlives this process on purpose, to clean up behind it"
        )]
        command.spawn().expect("setsid (util-linux) starts the watcher");
        let begun = Instant::now();
        while self.try_sql("postgres", "SELECT 1").is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "PostgreSQL does not start: see {}",
                self.log.display()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Writes a file into its data directory, for itself alone, and has it read its configuration anew.
    pub fn configure(&self, name: &str, text: &str) {
        let file = self.root.join("data").join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(&file));
        }
        self.sql("postgres", "SELECT pg_reload_conf()");
    }

    /// Ends it by a signal (`TERM` smart, `INT` fast, `QUIT` at once), and waits until it is gone.
    pub fn stop(&self, signal: &str) {
        let file = self.root.join("data/postmaster.pid");
        let Ok(text) = std::fs::read_to_string(&file) else {
            return;
        };
        let pid = text.lines().next().unwrap().to_owned();
        run(Command::new("kill").arg(format!("-{signal}")).arg(&pid));
        let begun = Instant::now();
        while file.exists() && Path::new("/proc").join(&pid).exists() {
            assert!(begun.elapsed() < Duration::from_secs(30), "PostgreSQL does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether it has what a case uses that needs this major version. `MENSHEN_SINCE` leaves out the cases of versions before it.
    pub fn has(&self, since: u32) -> bool {
        since <= self.version() && since >= left_out()
    }

    /// Its major version.
    pub fn version(&self) -> u32 {
        static VERSION: OnceLock<u32> = OnceLock::new();
        *VERSION.get_or_init(|| {
            let number: u32 = self.sql("postgres", "SHOW server_version_num").trim().parse().unwrap();
            number / 10_000
        })
    }

    /// A new database with the shop in it.
    pub fn shop(&self) -> String {
        self.copy("shop")
    }

    /// A new database that is a copy of another, which nobody is connected to.
    pub fn copy(&self, template: &str) -> String {
        let name = format!("shop_{}", NEXT.fetch_add(1, Ordering::SeqCst));
        static COPYING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        // A template may have no other copy under way.
        let _one = COPYING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {template}"));
        name
    }

    /// Runs SQL as superuser.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|e| panic!("{e}\n{sql}"))
    }

    /// Runs SQL as superuser.
    pub fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        use std::io::Write;
        let mut psql = Command::new(programs().join("psql"))
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                "postgres",
                "-d",
                database,
                "-h",
            ])
            .arg(&self.root)
            .args(["-p", &self.port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut input = psql.stdin.take().unwrap();
        let text = sql.to_owned();
        let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
        let output = psql.wait_with_output().map_err(|e| e.to_string())?;
        drop(writer.join());
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("last of PostgreSQL's log:\n{}", last.join("\n"));
        }
        self.stop("QUIT");
        let _gone = std::fs::remove_dir_all(&self.root);
    }
}

pub const HBA: &str = "local all postgres trust\nlocal replication postgres trust\nlocal all all scram-sha-256\n\
    host all postgres 127.0.0.1/32 trust\nhost all md5_login 127.0.0.1/32 md5\n\
    host all trusted 127.0.0.1/32 trust\nhost all +many_logins 127.0.0.1/32 trust\nhost all plain 127.0.0.1/32 password\n\
    host all all 127.0.0.1/32 scram-sha-256\n";

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// $1 the process to watch, $2 the directory to remove, then the server's command line.
const WATCH: &str = r#"
watched=$1; dir=$2; shift 2
"$@" &
while kill -0 "$watched" 2>/dev/null; do sleep 0.3; done
kill -QUIT "$(head -n 1 "$dir/data/postmaster.pid")" 2>/dev/null
wait
rm -rf "$dir"
"#;

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout.starts_with(b"0\n")
}

fn as_postgres(program: &Path) -> Command {
    if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; run `make setup`"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Directory of `initdb` and `postgres`: `MENSHEN_POSTGRES`, to run the tests on another version, or that of the clients.
fn server_programs() -> PathBuf {
    std::env::var_os("MENSHEN_POSTGRES").map_or_else(programs, PathBuf::from)
}

/// The user postgres may not be let into the directory of a checkout: then a copy of the installation serves.
fn reachable(bin: PathBuf, root: &Path) -> PathBuf {
    let mut test = as_postgres(Path::new("test"));
    if test.arg("-x").arg(bin.join("postgres")).status().unwrap().success() {
        return bin;
    }
    let copy = root.join("postgres");
    run(Command::new("cp").arg("-r").arg(bin.join("..")).arg(&copy));
    copy.join("bin")
}

/// Cases of statements that older versions have, too, are left out: those since this version remain.
pub fn left_out() -> u32 {
    std::env::var("MENSHEN_SINCE").map_or(0, |since| since.parse().unwrap())
}

/// Directory of PostgreSQL's server programs: the newest installed.
pub fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|d| {
            d.filter_map(Result::ok)
                .map(|e| e.path().join("bin"))
                .filter(|b| b.join("initdb").exists())
                .collect()
        })
        .unwrap_or_default();
    found.sort();
    found
        .pop()
        .unwrap_or_else(|| panic!("PostgreSQL's server programs are not installed; run `make setup`"))
}

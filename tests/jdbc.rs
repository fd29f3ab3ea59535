//! Java programs: PostgreSQL's JDBC driver, in every mode it has. What `clients/Shop.java` prints through Menshen is what it prints on a
//! masked copy.

use std::path::Path;
use std::process::Command;

use crate::clients::different;
use crate::harness::canary::leaks;
use crate::harness::menshen::unlimited_policy;
use crate::harness::{Menshen, Postgres};
use crate::oracle::{ROLES, masked_copy};

/// Where Debian's package puts the driver.
const DRIVER: &str = "/usr/share/java/postgresql.jar";

fn program(name: &str) -> Command {
    assert!(
        Path::new(DRIVER).exists(),
        "no JDBC driver at {DRIVER}; run `make setup`"
    );
    Command::new(name)
}

fn output(mut command: Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; run `make setup`"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn java_programs_print_what_they_print_on_a_masked_copy() {
    let classes = tempfile::tempdir().unwrap();
    let mut compiler = program("javac");
    compiler
        .args(["-encoding", "UTF-8", "-cp", DRIVER, "-d"])
        .arg(classes.path())
        .arg(format!("{}/tests/clients/Shop.java", env!("CARGO_MANIFEST_DIR")));
    output(compiler);
    let server = Postgres::get();
    for (login, options, masking, masked) in ROLES {
        let menshen = Menshen::with(&unlimited_policy(), "");
        let copy = masked_copy(masking);
        let transcript = |port: u16, database: &str| {
            let mut java = program("java");
            java.args(["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp"])
                .arg(format!("{DRIVER}:{}", classes.path().display()))
                .args(["Shop", &port.to_string(), database, login, options]);
            output(java).replace(database, "DATABASE")
        };
        let (got, wanted) = std::thread::scope(|scope| {
            let direct = scope.spawn(|| transcript(server.port, &copy));
            (transcript(menshen.port, &menshen.database), direct.join().unwrap())
        });
        if let Some(directory) = std::env::var_os("MENSHEN_TRANSCRIPTS") {
            std::fs::write(Path::new(&directory).join(format!("{login}-got")), &got).unwrap();
            std::fs::write(Path::new(&directory).join(format!("{login}-wanted")), &wanted).unwrap();
        }
        let thrown: Vec<&str> = wanted
            .lines()
            .filter(|l| l.starts_with("!! ") || l.contains(" !! org."))
            .collect();
        assert!(thrown.is_empty(), "on the copy: {thrown:?}");
        assert!(wanted.lines().count() > 15_000, "{} lines", wanted.lines().count());
        let found = leaks(got.as_bytes(), login, "");
        assert!(!masked || found.is_empty(), "{login}: {found:?}");
        let different = different(&got, &wanted);
        assert!(different.is_empty(), "{login}: {different}");
    }
}

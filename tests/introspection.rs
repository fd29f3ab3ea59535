//! Tools that ask the catalog before anything else: psql's backslash commands, pg_dump, SQLAlchemy, Django. What they print through
//! Menshen is what they print on a masked copy.

use std::process::Command;

use menshen::cli::demo::data;

use crate::harness::canary::leaks;
use crate::harness::menshen::{CASE, unlimited_policy};
use crate::harness::{Menshen, Postgres, postgres};
use crate::oracle::{ROLES, masked_copy};

/// Major version of psql and pg_dump.
fn client_version() -> u32 {
    let output = Command::new(postgres::programs().join("psql"))
        .arg("--version")
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let version = text.split_whitespace().nth(2).and_then(|v| v.split('.').next());
    version.and_then(|v| v.parse().ok()).unwrap()
}

/// What a program of PostgreSQL prints as a login, with the database's own name and numbers of objects made equal.
fn printed(program: &str, arguments: &[&str], port: u16, database: &str, login: &str, options: &str) -> String {
    let output = Command::new(postgres::programs().join(program))
        .args(["-h", "127.0.0.1", "-U", login, "-p", &port.to_string(), "-d", database])
        .args(arguments)
        .env("PGPASSWORD", data::password(login))
        .env("PGOPTIONS", options)
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    // A program that is older than the server may fail: then by the same words.
    assert!(
        output.status.success() || client_version() < Postgres::get().version(),
        "{program} {arguments:?} as {login}: {text}"
    );
    // Only where it stands as a port: its digits may also stand in a value.
    text.replace(database, "DATABASE")
        .replace(&format!("port \"{port}\""), "PORT")
        .replace(&format!("port {port}"), "PORT")
}

const BACKSLASH: [&str; 46] = [
    "\\d",
    "\\d crm.*",
    "\\d+ crm.customers",
    "\\d+ crm.v_contacts",
    "\\dt+ crm.*",
    "\\dv crm.*",
    "\\dm",
    "\\ds",
    "\\di crm.*",
    "\\dE",
    "\\dn+",
    "\\df",
    "\\df+ pg_catalog.lower",
    "\\da pg_catalog.count",
    "\\dT",
    "\\dD",
    "\\do pg_catalog.=",
    "\\dO",
    "\\dc",
    "\\dC",
    "\\dd",
    "\\ddp",
    "\\dp crm.*",
    "\\dg",
    "\\du",
    "\\drds",
    "\\dx",
    "\\dy",
    "\\dF",
    "\\dFd",
    "\\dL",
    "\\dl",
    "\\dP",
    "\\dRp",
    "\\dX",
    "\\dA",
    "\\dAc",
    "\\db",
    "\\dconfig search_path",
    "\\des",
    "\\dew",
    "\\det",
    "\\sv crm.v_contacts",
    "\\conninfo",
    "\\encoding",
    "\\z crm.customers",
];

#[test]
fn backslash_commands_print_the_same() {
    let server = Postgres::get();
    let menshen = Menshen::with(&unlimited_policy(), "");
    let copy = masked_copy("");
    let mut failures = Vec::new();
    for command in BACKSLASH {
        let arguments = ["-X", "-c", command];
        let through = printed("psql", &arguments, menshen.port, &menshen.database, "analyst", "");
        let direct = printed("psql", &arguments, server.port, &copy, "analyst", "");
        // Sizes on disk differ with what was done to the copy.
        if through != direct && !command.contains('+') {
            failures.push(format!("{command}\n{through}\ninstead of\n{direct}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn pg_dump_gives_the_dump_of_a_masked_copy() {
    let server = Postgres::get();
    let menshen = Menshen::with(&unlimited_policy(), "");
    if client_version() < server.version() {
        // It dumps no newer server, and says so through Menshen as it does directly.
        let said = |port: u16| printed("pg_dump", &["--schema=crm"], port, &menshen.database, "analyst", "");
        let (got, wanted) = (said(menshen.port), said(server.port));
        assert!(
            got == wanted && got.contains("server version mismatch"),
            "{got}\n{wanted}"
        );
        return;
    }
    for (login, options, masking, masked) in ROLES {
        let copy = masked_copy(masking);
        for arguments in [
            vec!["--schema=crm"],
            vec!["--inserts", "--schema=crm"],
            vec!["--column-inserts", "--rows-per-insert=7", "--schema=crm"],
            vec!["--data-only", "--table=crm.customers", "--table=crm.orders"],
            vec!["--schema-only"],
        ] {
            let lines = |port: u16, database: &str| {
                let text = printed("pg_dump", &arguments, port, database, login, options);
                if masked {
                    let found = leaks(text.as_bytes(), login, "");
                    assert!(database == copy || found.is_empty(), "{login} {arguments:?}: {found:?}");
                }
                // The copy's rows lie in another order, and newer programs write a random word against injection.
                let mut lines: Vec<String> = text
                    .lines()
                    .filter(|l| !l.starts_with("\\restrict") && !l.starts_with("\\unrestrict"))
                    .map(|l| l.trim_matches(|c| "(), ;".contains(c)).to_owned())
                    .collect();
                lines.sort();
                lines
            };
            let (got, wanted) = (lines(menshen.port, &menshen.database), lines(server.port, &copy));
            // Where rows share a statement, the first of each stands behind VALUES.
            let rows = |lines: &[String]| -> Vec<String> {
                let mut rows: Vec<String> = lines
                    .iter()
                    .map(|l| l.rsplit_once("VALUES").map_or(l.as_str(), |(_, v)| v).trim().to_owned())
                    .map(|l| l.trim_start_matches('(').to_owned())
                    .filter(|l| !l.is_empty() && !l.starts_with("INSERT INTO"))
                    .collect();
                rows.sort();
                rows
            };
            let (got, wanted) = (rows(&got), rows(&wanted));
            let difference: Vec<(&String, &String)> = got.iter().zip(&wanted).filter(|(a, b)| a != b).take(3).collect();
            assert!(
                got.len() == wanted.len() && difference.is_empty(),
                "{login} {arguments:?}: {} lines, {} wanted; {difference:?}",
                got.len(),
                wanted.len()
            );
        }
    }
}

fn python(script: &str) {
    let menshen = Menshen::with(&unlimited_policy(), "");
    let root = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(format!("{root}/.venv/bin/python"))
        .arg(format!("{root}/tests/clients/{script}"))
        .arg(menshen.port.to_string())
        .arg(&menshen.database)
        .arg(Postgres::get().port.to_string())
        .env("PGOPTIONS", if script.contains("support") { CASE } else { "" })
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success() && text.contains("all right"), "{text}");
}

#[test]
fn sqlalchemy_reflects_and_maps() {
    python("sqlalchemy_shop.py");
}

#[test]
fn django_inspects_and_saves() {
    python("django_shop.py");
}

#[test]
fn every_built_in_of_this_server_is_on_the_list() {
    let server = Postgres::get();
    let names = server.sql(
        "postgres",
        "SELECT DISTINCT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
          WHERE n.nspname IN ('pg_catalog', 'information_schema') AND p.oid < 16384",
    );
    let known = &menshen::guard::functions::BUILT_INS;
    let missing: Vec<&str> = names.lines().filter(|n| !known.knows_function(n)).collect();
    assert!(names.lines().count() > 2_000 && missing.is_empty(), "{missing:?}");
    let relations = server.sql(
        "postgres",
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname IN ('pg_catalog', 'information_schema') AND c.relkind IN ('r', 'v')",
    );
    let unknown = |full: &&str| full.split_once('.').is_none_or(|(s, n)| !known.knows_relation(s, n));
    let missing: Vec<&str> = relations.lines().filter(unknown).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

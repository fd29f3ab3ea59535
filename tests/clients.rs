//! Real clients, unchanged: psql, psycopg 3, asyncpg, node-postgres. (JDBC: `jdbc.rs`; rust-postgres: `rust_postgres.rs`.)

use std::process::Command;

use menshen::cli::demo::data;

use crate::harness::canary::leaks;
use crate::harness::menshen::{CASE, unlimited_policy};
use crate::harness::{Menshen, Postgres, postgres};
use crate::oracle::{ROLES, masked_copy};

#[test]
fn psql_runs_the_demo_s_queries() {
    let menshen = Menshen::demo();
    let output = Command::new(postgres::programs().join("psql"))
        .args([
            "-X",
            "-A",
            "-t",
            "-h",
            "127.0.0.1",
            "-U",
            "support",
            "-d",
            &menshen.database,
            "-p",
            &menshen.port.to_string(),
        ])
        .args([
            "-c",
            "SELECT id, name, phone FROM crm.customers ORDER BY id LIMIT 2",
            "-c",
            "\\d crm.customers",
            "-c",
            "\\dt crm.*",
        ])
        .env("PGPASSWORD", data::password("support"))
        .env("PGOPTIONS", CASE)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("id_card|text") && text.contains("crm|customers|table") && !text.contains("menshen_k"),
        "{text}"
    );
}

fn python(script: &str) {
    let menshen = Menshen::demo();
    let root = env!("CARGO_MANIFEST_DIR");
    let interpreter = format!("{root}/.venv/bin/python");
    assert!(
        std::path::Path::new(&interpreter).exists(),
        "no .venv with psycopg and asyncpg; run `make setup`"
    );
    let output = Command::new(interpreter)
        .arg(format!("{root}/tests/clients/{script}"))
        .arg(menshen.port.to_string())
        .arg(&menshen.database)
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
fn psycopg_runs_the_demo_s_queries() {
    python("psycopg_demo.py");
}

#[test]
fn asyncpg_runs_the_demo_s_queries() {
    python("asyncpg_demo.py");
}

/// What is not the same in two transcripts, part by part.
pub fn different(got: &str, wanted: &str) -> String {
    let mut part = "";
    let mut different = Vec::new();
    for (a, b) in got.lines().zip(wanted.lines()) {
        if b.starts_with("== ") {
            part = b;
        }
        if a != b {
            different.push(format!("{part}\n    {a}\n    instead of\n    {b}"));
            if a.starts_with("!! ") || a.starts_with("== ") {
                break;
            }
        }
    }
    different.truncate(8);
    if got.lines().count() != wanted.lines().count() {
        different.push(format!(
            "{} lines, {} wanted",
            got.lines().count(),
            wanted.lines().count()
        ));
    }
    different.join("\n")
}

#[test]
fn node_programs_print_what_they_print_on_a_masked_copy() {
    let root = env!("CARGO_MANIFEST_DIR");
    let packages = format!("{root}/.node/node_modules");
    assert!(
        std::path::Path::new(&packages).exists(),
        "no node-postgres in .node; run `make setup`"
    );
    for (login, options, masking, masked) in ROLES {
        let menshen = Menshen::with(&unlimited_policy(), "");
        let copy = masked_copy(masking);
        let transcript = |port: u16, database: &str| {
            let output = Command::new("node")
                .arg(format!("{root}/tests/clients/node_shop.js"))
                .args([&port.to_string(), database, login, options])
                .env("NODE_PATH", &packages)
                .output()
                .unwrap();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{errors}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let wanted = transcript(Postgres::get().port, &copy);
        let thrown: Vec<&str> = wanted.lines().filter(|l| l.starts_with("!! ")).collect();
        let lines = wanted.lines().count();
        assert!(
            thrown.is_empty() && lines > 140,
            "{lines} lines on the copy: {thrown:?}"
        );
        let got = transcript(menshen.port, &menshen.database);
        let found = leaks(got.as_bytes(), login, "");
        assert!(!masked || found.is_empty(), "{login}: {found:?}");
        let different = different(&got, &wanted);
        assert!(different.is_empty(), "{login}: {different}");
    }
}

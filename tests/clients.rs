//! Real clients, unchanged: psql, psycopg 3, asyncpg.

use std::process::Command;

use menshen::cli::demo::data;

use crate::harness::menshen::CASE;
use crate::harness::{Menshen, postgres};

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

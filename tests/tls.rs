//! TLS towards clients.

use std::process::Command;

use menshen::cli::demo::data;

use crate::harness::menshen::demo_policy;
use crate::harness::{Menshen, postgres};

fn psql(menshen: &Menshen, sslmode: &str) -> (bool, String) {
    let output = Command::new(postgres::programs().join("psql"))
        .args([
            "-X",
            "-A",
            "-t",
            "-c",
            "\\conninfo",
            "-c",
            "SELECT name FROM crm.customers WHERE id = 1",
        ])
        .arg(format!(
            "host=127.0.0.1 port={} user=analyst dbname={} sslmode={sslmode}",
            menshen.port, menshen.database
        ))
        .env("PGPASSWORD", data::password("analyst"))
        .output()
        .unwrap();
    (
        output.status.success(),
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
    )
}

#[test]
fn clients_may_encrypt_where_a_certificate_is_configured() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let keys = tempfile::tempdir().unwrap();
    std::fs::write(keys.path().join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(keys.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let at = keys.path().display();
    let menshen = Menshen::with(
        &demo_policy(),
        &format!("[tls]\ncert = \"{at}/cert.pem\"\nkey = \"{at}/key.pem\"\n"),
    );
    // SCRAM without channel binding: the TLS channel ends at Menshen.
    let (fine, text) = psql(&menshen, "require");
    assert!(fine && text.contains("SSL connection") && text.contains('*'), "{text}");
    let (fine, text) = psql(&menshen, "disable");
    assert!(fine && !text.contains("SSL connection"), "{text}");
    let plain = Menshen::demo();
    assert!(!psql(&plain, "require").0);
    assert!(psql(&plain, "prefer").0);
}

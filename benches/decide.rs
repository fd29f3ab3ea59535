//! What a decision costs: reading, deciding, editing, verifying and witnessing a statement that no cache knows.
//! `cargo bench` prints microseconds per statement; they are ratios' raw material, not promises.

use std::sync::Arc;
use std::time::Instant;

use menshen::catalog::Catalog;
use menshen::guard::{Ground, Request, examine};
use menshen::mask::TokenSettings;
use menshen::policy::Policy;
use menshen::principal::{Declared, Principal};

fn main() {
    let text = include_str!("../policies/demo.toml");
    let Ok((policy, _)) = Policy::parse(std::path::Path::new("demo.toml"), text, 1) else {
        return;
    };
    let policy = Arc::new(policy);
    let catalog = Arc::new(Catalog::default());
    let ground = Ground::new(Arc::clone(&policy), catalog, None, None);
    let principal = Principal {
        login: "analyst".into(),
        groups: std::collections::BTreeSet::new(),
        address: None,
    };
    let standing = policy.standing(&principal, &Declared::default(), jiff::Timestamp::UNIX_EPOCH);
    let token = TokenSettings {
        inner: "menshen.ki".into(),
        outer: "menshen.ko".into(),
    };
    let path = ["pg_catalog".to_owned()];
    for (name, sql) in [
        ("constant", "SELECT 1"),
        (
            "expressions",
            "SELECT 1 + 2 * 3, upper('x'), CASE WHEN true THEN 'a' ELSE 'b' END, ARRAY[1, 2, 3], now()",
        ),
    ] {
        let request = Request {
            text: sql,
            login: "analyst",
            standing: &standing,
            search_path: &path,
            current_user: "analyst",
            token: &token,
            cursor: &|_| None,
            prepared: &|_| None,
            undone_at_end: false,
            extended: false,
        };
        let rounds = 2_000_u32;
        let begun = Instant::now();
        for _ in 0..rounds {
            let _verdict = std::hint::black_box(examine(&ground, &request));
        }
        println!(
            "{name:<12} {:>8.1} µs",
            begun.elapsed().as_secs_f64() * 1e6 / f64::from(rounds)
        );
    }
}

//! What a decision costs: `cold`, as nobody has met the shape of the text; `kept`, by a plan that is kept for its shape (scan, hash, lookup, splice). Then
//! what the kept shapes take in memory (`-- memory`: only that). `cargo bench --bench statement`; for counts of instructions, valgrind --tool=callgrind on the binary with one name.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot be set up must say so")]
#![allow(clippy::cast_precision_loss, reason = "sizes are printed with three digits")]

use std::sync::Arc;

use divan::Bencher;
use menshen::catalog::{Catalog, Column, Relation, RelationKind, RelationName};
use menshen::guard::{Context, Ground, Late, Plans, Request, examine};
use menshen::mask::TokenSettings;
use menshen::policy::{Policy, Standing};
use menshen::principal::{Declared, Principal};

/// Name and text of each statement: of 50 and of 300 bytes, protected or not.
const TEXTS: [(&str, &str); 6] = [
    ("plain 50", "SELECT abalance FROM crm.accounts WHERE aid = 4711"),
    ("masked 50", "SELECT name, phone FROM crm.customers WHERE id=47"),
    ("insert 50", "INSERT INTO crm.accounts VALUES (1, 2, 3, 'filler')"),
    (
        "plain 300",
        "SELECT a.aid, a.abalance, b.bid, upper(a.filler) AS filler, CASE WHEN a.abalance > 100 THEN 'much' ELSE 'little' END AS how \
         FROM crm.accounts a JOIN crm.accounts b ON b.bid = a.bid AND b.aid <> a.aid WHERE a.aid BETWEEN 100 AND 200 AND a.filler LIKE 'x%' \
         ORDER BY a.abalance DESC, a.aid LIMIT 20 OFFSET 40",
    ),
    (
        "masked 300",
        "SELECT c.id, c.name, c.phone, o.item, o.total, count(*) OVER (PARTITION BY c.id) AS orders FROM crm.customers c JOIN crm.orders o ON \
         o.customer_id = c.id WHERE c.grade IN ('vip', 'gold') AND o.total > 1000 AND c.phone LIKE '138%' AND c.city = 'Shanghai' \
         ORDER BY o.total DESC, c.id LIMIT 50 OFFSET 0",
    ),
    ("nothing", "SELECT 1"),
];

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Stage {
    ground: Ground,
    standing: Standing,
    context: Context,
    token: TokenSettings,
}

fn relation(oid: u32, name: &str, columns: &[(&str, &str, u32)]) -> Relation {
    let column = |(at, (name, ty, ty_oid)): (usize, &(&str, &str, u32))| Column {
        attnum: i16::try_from(at + 1).unwrap(),
        name: (*name).into(),
        type_oid: *ty_oid,
        type_sql: (*ty).into(),
        base_type_sql: (*ty).into(),
        base_type_oid: *ty_oid,
        category: if *ty == "text" { 'S' } else { 'N' },
        not_null: *name == "id" || *name == "customer_id",
        generation: None,
        assign_type_sql: (*ty).into(),
    };
    Relation {
        oid,
        name: RelationName {
            schema: "crm".into(),
            name: name.into(),
        },
        kind: RelationKind::Table,
        temporary: false,
        columns: columns.iter().enumerate().map(column).collect(),
        view_definition: None,
        parents: vec![],
        children: vec![],
        rules: vec![],
    }
}

fn stage() -> Stage {
    let (number, text, money) = (("bigint", 20), ("text", 25), ("numeric", 1700));
    let of = |name: &'static str, (ty, oid): (&'static str, u32)| (name, ty, oid);
    let policy = r#"
version = 1
thresholds = "cn-criminal-253-1"
[classes.name]
category = "general"
mask = "name"
[classes.phone]
category = "general"
mask = "phone"
[classes.transaction]
category = "sensitive"
mask = "bucket(1000)"
[tables."crm.customers"]
person = "id"
columns = { name = "name", phone = "phone" }
[tables."crm.orders"]
person = "customer_id"
of = "crm.customers"
columns = { total = "transaction" }
[roles.analyst]
logins = ["analyst"]
"#;
    let mut catalog = Catalog {
        database: "shop".into(),
        epoch: 1,
        ..Catalog::default()
    };
    let customers = ["name", "phone", "grade", "city"].map(|name| of(name, text));
    for relation in [
        relation(1, "customers", &[[of("id", number)].as_slice(), &customers].concat()),
        relation(
            2,
            "orders",
            &[
                of("id", number),
                of("customer_id", number),
                of("item", text),
                of("total", money),
            ],
        ),
        relation(
            3,
            "accounts",
            &[
                of("aid", number),
                of("bid", number),
                of("abalance", number),
                of("filler", text),
            ],
        ),
    ] {
        let named = catalog.by_name.entry("crm".into()).or_default();
        named.insert(relation.name.name.clone(), relation.oid);
        catalog.relations.insert(relation.oid, relation);
    }
    let (policy, _) = Policy::parse(std::path::Path::new("bench.toml"), policy, 1).unwrap();
    let principal = Principal {
        login: "analyst".into(),
        groups: std::collections::BTreeSet::new(),
        address: None,
    };
    let standing = policy.standing(&principal, &Declared::default(), jiff::Timestamp::UNIX_EPOCH);
    let context = Context {
        standing: standing.clone(),
        search_path: vec!["pg_catalog".into(), "crm".into()],
        current_user: "analyst".into(),
        policy: 1,
        catalog: 1,
        late: Late::Portals,
    };
    Stage {
        ground: Ground::new(Arc::new(policy), Arc::new(catalog), None, None),
        standing,
        context,
        token: TokenSettings {
            inner: "menshen.ki".into(),
            outer: "menshen.ko".into(),
        },
    }
}

impl Stage {
    fn request<'a>(&'a self, text: &'a str) -> Request<'a> {
        Request {
            text,
            login: "analyst",
            standing: &self.standing,
            search_path: &self.context.search_path,
            current_user: "analyst",
            token: &self.token,
            cursor: &|_| None,
            prepared: &|_| None,
            undone_at_end: false,
            extended: false,
            late: true,
        }
    }
}

fn text(name: &str) -> &'static str {
    TEXTS.iter().find(|(known, _)| *known == name).unwrap().1
}

#[divan::bench(args = TEXTS.map(|(name, _)| name), sample_size = 10, sample_count = 200)]
fn cold(bencher: Bencher, name: &str) {
    let stage = stage();
    let request = stage.request(text(name));
    assert!(examine(&stage.ground, &request).is_ok(), "{name}");
    bencher.bench_local(|| examine(&stage.ground, &request).unwrap());
}

#[divan::bench(args = TEXTS.map(|(name, _)| name), sample_size = 1000, sample_count = 200)]
fn kept(bencher: Bencher, name: &str) {
    let stage = stage();
    let plans = Plans::new(64 * 1024 * 1024);
    let number = plans.number(&stage.context).unwrap();
    let request = stage.request(text(name));
    for _ in 0..4 {
        plans.examine(&stage.ground, &request, number).unwrap();
    }
    assert!(plans.kept(&request, number).is_some(), "{name}");
    bencher.bench_local(|| plans.kept(&request, number).unwrap());
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// What a kept shape takes: by the count that bounds the cache, and resident. Each text becomes many shapes by a column's alias.
fn memory() {
    const SHAPES: usize = 10_000;
    let stage = stage();
    println!("shapes in cache, KiB each          counted  resident");
    // None is dropped before the end: what comes after would find its memory.
    let mut all = Vec::new();
    for (name, text) in TEXTS {
        let Some((head, tail)) = text.split_once(" FROM ") else {
            continue;
        };
        let kept = |plans: &Plans, from: usize, to: usize| {
            let number = plans.number(&stage.context).unwrap();
            for shape in from..to {
                let text = format!("{head}, 1 AS c{shape:05} FROM {tail}");
                for _ in 0..3 {
                    plans.examine(&stage.ground, &stage.request(&text), number).unwrap();
                }
                assert!(plans.kept(&stage.request(&text), number).is_some(), "{text}");
            }
        };
        let plans = Plans::new(1024 * 1024 * 1024);
        kept(&plans, 0, 500);
        let (counted, before) = (plans.size().0, resident());
        kept(&plans, 500, 500 + SHAPES);
        let each = |bytes: f64| bytes / SHAPES as f64 / 1024.0;
        let (counted, resident) = (plans.size().0 - counted, resident().saturating_sub(before));
        println!(
            "{name:<34} {:>7.2}  {:>8.2}",
            each(counted as f64),
            each(resident as f64)
        );
        all.push(plans);
    }
    let (_, text) = TEXTS[1];
    let plans = Plans::new(4 * 1024 * 1024);
    let number = plans.number(&stage.context).unwrap();
    for shape in 0..SHAPES {
        let text = text.replace(" FROM", &format!(", 1 AS c{shape:05} FROM"));
        for _ in 0..3 {
            plans.examine(&stage.ground, &stage.request(&text), number).unwrap();
        }
    }
    let (bytes, shapes) = plans.size();
    println!(
        "{SHAPES} shapes in a cache of 4.00 MiB: {shapes} are known, {:.2} MiB",
        bytes as f64 / 1024.0 / 1024.0
    );
}

fn main() {
    divan::main();
    // `cargo test --benches` and `-- NAME` have divan alone.
    let more: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if more.is_empty() || more == ["memory"] {
        memory();
    }
}

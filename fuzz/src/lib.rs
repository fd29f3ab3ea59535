//! What is fuzzed, and what must hold of it. libFuzzer calls these functions (`fuzz_targets/`), and so does `tests/fuzz.rs`, with the
//! corpus and with mutations of it. Whatever must not be is a panic.

pub mod wire;

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use menshen::catalog::introspect;
use menshen::guard::witness::{self, Accounted};
use menshen::guard::{self, Ground, Plan, Request, Verdict};
use menshen::ledger::Pack;
use menshen::mask::TokenSettings;
use menshen::policy::{Policy, Standing};
use menshen::principal::{Declared, Principal};

/// No statement may take longer, on a busy machine and without optimisation.
const LONGEST: Duration = Duration::from_secs(20);

/// The demo's policy over the catalog of the tests' shop, and its logins.
struct Shop {
    ground: Ground,
    logins: Vec<(&'static str, Standing)>,
    token: TokenSettings,
}

/// The same policy and catalog with a threshold pack, so that people are counted.
fn counting() -> Arc<Ground> {
    static GROUND: LazyLock<Arc<Ground>> = LazyLock::new(|| {
        let (policy, catalog) = (Arc::clone(&SHOP.ground.policy), Arc::clone(&SHOP.ground.catalog));
        let pack =
            Pack::find("cn-criminal-253-1", std::path::Path::new("policies/demo.toml")).expect("the demo's pack");
        Arc::new(Ground::new(policy, catalog, Some(Arc::new(pack)), None))
    });
    Arc::clone(&GROUND)
}

static SHOP: LazyLock<Shop> = LazyLock::new(|| {
    let catalog = introspect::parse(include_str!("../catalog.json"), 1, None).expect("catalog.json is a catalog");
    let path = std::path::Path::new("policies/demo.toml");
    let (policy, _) = Policy::parse(path, include_str!("../../policies/demo.toml"), 1).expect("the demo's policy");
    let case = [("purpose", "customer_service"), ("case", "CS-004711")];
    let case = Declared {
        settings: case.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    };
    let logins = [
        ("analyst", Declared::default()),
        ("support", case),
        ("intern", Declared::default()),
        ("dba", Declared::default()),
    ];
    let logins = logins
        .into_iter()
        .map(|(login, declared)| {
            let principal = Principal {
                login: login.into(),
                groups: Default::default(),
                address: None,
            };
            (
                login,
                policy.standing(&principal, &declared, jiff::Timestamp::UNIX_EPOCH),
            )
        })
        .collect();
    Shop {
        ground: Ground::new(Arc::new(policy), Arc::new(catalog), None, None),
        logins,
        token: TokenSettings {
            inner: "menshen.ki".into(),
            outer: "menshen.ko".into(),
        },
    }
});

/// How many logins there are.
pub const LOGINS: usize = 4;

/// What became of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Logins for whom there is a plan.
    pub planned: u32,
    /// Logins for whom the text is edited.
    pub edited: u32,
    /// Rules of the refusals.
    pub refused: BTreeSet<&'static str>,
}

/// Panics in the guard's own threads end there, by design: they are not what is looked for.
pub fn let_the_guards_threads_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() != Some("menshen-witness") {
            before(info);
        }
    }));
}

/// SQL text through the whole statement path, as every login of the demo, in both protocols.
pub fn statement(data: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let Ok(text) = std::str::from_utf8(data) else {
        return outcome;
    };
    for number in 0..LOGINS {
        judged(text, number, &mut outcome);
    }
    outcome
}

/// As one login, by number, in both protocols.
pub fn judged(text: &str, number: usize, outcome: &mut Outcome) -> Option<Plan> {
    let (simple, extended) = (examined(text, number, false, true), examined(text, number, true, true));
    match (simple, extended) {
        (Ok(plan), Ok(other)) => {
            // Only a simple query is masked late.
            if plan.text != other.text {
                let early = examined(text, number, false, false).map(|plan| plan.text).ok();
                assert_eq!(early, Some(other.text), "the protocols differ for {text:?}");
            }
            outcome.planned += 1;
            outcome.edited += u32::from(plan.edited);
            Some(plan)
        }
        // Several statements are for the simple protocol alone.
        (Ok(plan), Err(Verdict::Refuse(refusal))) => {
            assert!(
                refusal.rule == "one-statement" && plan.statements.len() > 1,
                "{text:?}: {refusal:?}"
            );
            Some(plan)
        }
        (Err(Verdict::Refuse(refusal)), Err(_)) => {
            // The first guard's own edit was not what it meant: caught, and a mistake.
            assert!(refusal.rule != "edit-differs", "{text:?}: {refusal:?}");
            outcome.refused.insert(refusal.rule);
            None
        }
        (Err(Verdict::Missing { .. } | Verdict::InTurn { .. }), Err(_)) => None,
        (simple, extended) => panic!(
            "the protocols differ for {text:?}: {:?}, {:?}",
            simple.err(),
            extended.err()
        ),
    }
}

/// One judgement, and what must hold of every plan.
fn examined(text: &str, number: usize, extended: bool, late: bool) -> Result<Plan, Verdict> {
    let shop = &*SHOP;
    let (login, standing) = &shop.logins[number];
    let request = Request {
        text,
        login,
        standing,
        search_path: &["pg_catalog".into(), "crm".into(), "public".into()],
        current_user: login,
        token: &shop.token,
        cursor: &|_| None,
        prepared: &|_| None,
        extended,
        undone_at_end: false,
        late,
    };
    let begun = Instant::now();
    let judged = guard::examine(&shop.ground, &request);
    let took = begun.elapsed();
    assert!(took < LONGEST, "{took:?} for {text:?}");
    let plan = judged?;
    let client = guard::parse::parse(text).expect("what is planned parses");
    assert_eq!(plan.statements.len(), client.statements.len(), "{text:?}");
    if plan.edited {
        let edited = guard::parse::parse(&plan.text);
        let edited = edited.unwrap_or_else(|e| panic!("{text:?} became {:?}: {e:?}", plan.text));
        assert_eq!(
            edited.statements.len(),
            client.statements.len(),
            "{text:?} became {:?}",
            plan.text
        );
        assert!(!plan.text.contains("menshen_kplace"), "{text:?} became {:?}", plan.text);
    } else {
        assert_eq!(&*plan.text, text, "not edited, and another text");
    }
    for statement in plan.statements.iter() {
        let witness = statement.report.witness;
        assert!(!witness.is_empty(), "no witness for {text:?}");
    }
    Ok(plan)
}

/// Statements whose edits surround what the client wrote: `c` comments, `i` names in quotes, `s` strings.
const AROUND: [&str; 12] = [
    "SELECT/*{c0}*/phone AS {i1}, {s2} FROM/*{c3}*/crm.customers/*{c0}*/{i1} WHERE {s2} <> name -- {l3}",
    "WITH {i0} AS (SELECT * FROM crm.customers/*{c1}*/) SELECT/*{c2}*/{s3}, * FROM {i0}",
    "SELECT {i0}.*, {i0}.phone/*{c1}*/ || {s2} FROM/*{c3}*/ONLY crm.customers {i0}",
    "UPDATE crm.customers AS {i0} SET city = {s1} WHERE {i0}.phone/*{c2}*/ LIKE {s3} RETURNING/*{c2}*/{i0}.phone, *",
    "DELETE FROM crm.messages {i0} WHERE {i0}.body = {s1} RETURNING/*{c2}*/body AS {i3}",
    "COPY/*{c0}*/(SELECT phone AS {i1}, {s2} FROM crm.customers)/*{c3}*/TO STDOUT",
    "DECLARE {i0} CURSOR/*{c1}*/FOR SELECT {s2}, c FROM crm.customers/*{c3}*/c",
    "PREPARE {i0} AS/*{c1}*/SELECT max(phone || {s2}) FROM crm.customers GROUP BY city -- {l3}",
    "SELECT string_agg(name/*{c0}*/, {s1}) AS {i2} FROM crm.v_contacts/*{c3}*/",
    "SELECT (SELECT {s0} || c.phone)/*{c1}*/, {i2}.lat FROM crm.customers c, LATERAL (SELECT lat FROM crm.customer_locations/*{c3}*/) {i2}",
    "SELECT {s0}; SELECT phone/*{c1}*/ FROM crm.customers; SELECT {s2} AS {i3}",
    "EXPLAIN SELECT/*{c0}*/phone FROM crm.customers AS {i1} WHERE {s2} = phone",
];

/// Texts of any letters in comments, names and strings around what is edited: they come through byte for byte. (A comment between ONLY
/// and the relation, or among EXPLAIN's options, goes with what is replaced.)
pub fn edit(data: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let Some((choice, rest)) = data.split_first() else {
        return outcome;
    };
    let Ok(rest) = std::str::from_utf8(rest) else {
        return outcome;
    };
    if rest.contains('\0') {
        return outcome;
    }
    let template = AROUND[usize::from(*choice) % AROUND.len()];
    let pieces: Vec<&str> = rest.splitn(4, '\u{1}').collect();
    let (text, written) = filled(template, &pieces);
    // One login for each text: edits are alike.
    let number = rest.len() % LOGINS;
    if let Some(plan) = judged(&text, number, &mut outcome) {
        let mut left: &str = &plan.text;
        for part in &written {
            let at = left.find(part.as_str());
            let at = at.unwrap_or_else(|| panic!("{part:?} of {text:?} is missing in {:?}", plan.text));
            left = &left[at + part.len()..];
        }
    }
    outcome
}

/// A template with its holes filled, and what was written into them, in order.
fn filled(template: &str, pieces: &[&str]) -> (String, Vec<String>) {
    let (mut text, mut written) = (String::new(), Vec::new());
    let mut parts = template.split('{');
    text.push_str(parts.next().unwrap_or(""));
    for part in parts {
        let (hole, after) = part.split_once('}').expect("a hole is closed");
        let (kind, number) = hole.split_at(1);
        let piece = number
            .parse()
            .ok()
            .and_then(|n: usize| pieces.get(n))
            .copied()
            .unwrap_or("x");
        let filling = match kind {
            "c" => piece.replace("*/", "* /").replace("/*", "/ *"),
            "l" => piece.replace(['\n', '\r'], " "),
            "i" if piece.is_empty() => "\"x\"".to_owned(),
            "i" => format!("\"{}\"", piece.replace('"', "\"\"")),
            _ => format!("'{}'", piece.replace('\'', "''")),
        };
        // A piece that ends in half a comment would open or close one with what stands beside it.
        let filling = if kind == "c" { format!(" {filling} ") } else { filling };
        text.push_str(&filling);
        text.push_str(after);
        written.push(filling);
    }
    (text, written)
}

/// The second reader alone, with a first guard that accounts for nothing: it ends, whatever the text, in time and on its own stack.
pub fn witness(data: &[u8]) -> &'static str {
    let Ok(text) = std::str::from_utf8(data) else { return "" };
    let begun = Instant::now();
    let testimony = witness::object(text, &Accounted::default());
    let took = begun.elapsed();
    assert!(took < LONGEST, "{took:?} for {text:?}");
    match testimony {
        witness::Testimony::Agrees => "agrees",
        witness::Testimony::Abstains(cause) => cause.label(),
        witness::Testimony::Objects(objections) => {
            assert!(!objections.is_empty(), "{text:?}");
            "objects"
        }
    }
}

//! Every statement of `cases/*.toml` with what the guard says of it for every login, without a proxy: from a catalog as the
//! server's own tables describe it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use menshen::catalog::introspect;
use menshen::guard::{self, Ground, Plan, Request, StatementKind, StatementPlan, Verdict};
use menshen::ledger::Pack;
use menshen::mask::TokenSettings;
use menshen::policy::{Policy, Standing};
use menshen::principal::{Declared, Principal};
use sha2::{Digest, Sha256};

/// The logins that are asked for, with what they declare.
pub const LOGINS: [(&str, &[(&str, &str)]); 4] = [
    ("analyst", &[]),
    ("support", &[("purpose", "customer_service"), ("case", "CS-004711")]),
    ("intern", &[]),
    ("dba", &[]),
];

/// Which database and policy a statement is judged on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The tests' shop.
    Shop,
    /// The shop with the objects of `cases/attacks.sql`.
    Attacked,
    /// The shop, and the analyst may write, derive and define.
    Granted,
    /// The shop with the objects of `cases/limited.sql`, and a policy with every limit that a policy can set.
    Limited,
}

impl On {
    pub const ALL: [Self; 4] = [Self::Shop, Self::Attacked, Self::Granted, Self::Limited];
}

/// Statements that follow each other in one session.
#[derive(Clone)]
pub struct Sequence {
    pub on: On,
    pub theme: String,
    /// The effective search path.
    pub path: Vec<String>,
    /// As Parse messages.
    pub extended: bool,
    pub statements: Vec<String>,
}

/// What the guard said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// `forward`, `edited` or `refused RULE`, with six digits that stand for everything that the verdict fixes.
    pub short: String,
    /// All of it, to be read when it has changed.
    pub whole: String,
}

#[derive(serde::Deserialize)]
struct Theme {
    ordered: Vec<String>,
    #[serde(default)]
    unordered: Vec<String>,
}

#[derive(serde::Deserialize)]
struct Case {
    sql: Vec<String>,
}

#[derive(serde::Deserialize)]
struct Attacks {
    attacks: Vec<Attack>,
}

#[derive(serde::Deserialize)]
struct Attack {
    name: String,
    /// The effective search path, where it is another than [`path`].
    path: Option<Vec<String>>,
    /// As Parse messages.
    #[serde(default)]
    extended: bool,
    sql: Vec<String>,
}

fn path() -> Vec<String> {
    vec!["pg_catalog".into(), "public".into()]
}

/// All of them.
pub fn sequences() -> Vec<Sequence> {
    let mut all = Vec::new();
    let select: BTreeMap<String, Theme> = toml::from_str(include_str!("../cases/select.toml")).unwrap();
    for (theme, cases) in select {
        for sql in cases.ordered.into_iter().chain(cases.unordered) {
            all.push(Sequence {
                on: On::Shop,
                theme: format!("select: {theme}"),
                path: path(),
                extended: false,
                statements: vec![sql],
            });
        }
    }
    let modify: BTreeMap<String, Vec<Case>> = toml::from_str(include_str!("../cases/modify.toml")).unwrap();
    for on in [On::Shop, On::Granted] {
        for (theme, cases) in &modify {
            for case in cases {
                let without_data = |sql: &String| sql.split("\n----\n").next().unwrap_or_default().to_owned();
                all.push(Sequence {
                    on,
                    theme: format!("modify, {on:?}: {theme}"),
                    path: path(),
                    extended: false,
                    statements: case.sql.iter().map(without_data).collect(),
                });
            }
        }
    }
    let attacks: Attacks = toml::from_str(include_str!("../cases/attacks.toml")).unwrap();
    for on in [On::Attacked, On::Granted] {
        for attack in &attacks.attacks {
            all.push(Sequence {
                on,
                theme: format!("attacks, {on:?}: {}", attack.name),
                path: path(),
                extended: false,
                statements: attack.sql.clone(),
            });
        }
    }
    // One by one: what one statement makes, the next does not find.
    let limited: Attacks = toml::from_str(include_str!("../cases/limited.toml")).unwrap();
    for case in limited.attacks {
        for sql in case.sql {
            all.push(Sequence {
                on: On::Limited,
                theme: format!("limited: {}", case.name),
                path: case.path.clone().unwrap_or_else(path),
                extended: case.extended,
                statements: vec![sql],
            });
        }
    }
    all
}

/// What is judged on, from the answers to `introspect::QUERY` of the three databases.
pub struct Judges {
    /// With the standing of each of [`LOGINS`].
    pub grounds: Vec<(On, Ground, Vec<Standing>)>,
    /// Whether columns may be masked late.
    pub late: bool,
}

impl Judges {
    pub fn new(shop: &str, attacked: &str, limited: &str, attack_tables: &str, demo_policy: &str) -> Self {
        let unlimited = &demo_policy[..demo_policy.find("[[limits]]").unwrap()];
        let grounds = On::ALL.map(|on| {
            let (document, policy) = match on {
                On::Shop => (shop, unlimited.to_owned()),
                On::Attacked => (
                    attacked,
                    unlimited.replace("[roles.analyst]", &format!("{attack_tables}\n[roles.analyst]")),
                ),
                On::Granted => (
                    shop,
                    format!("{unlimited}\n[[grants]]\nrole = \"analyst\"\n{GRANTED}\n"),
                ),
                On::Limited => (
                    limited,
                    unlimited
                        .replace("version = 1", "version = 1\ninsert_masked = \"deny\"\nmin_group = 35")
                        .replace("mask = \"phone\" ", "mask = \"phone\"\ncompare = \"equality\" ")
                        .replace("mask = \"email\" ", "mask = \"email\"\ncompare = \"deny\" ")
                        + LIMITED,
                ),
            };
            let file = Path::new("policies/demo.toml");
            let (policy, _) = Policy::parse(file, &policy, 1).unwrap_or_else(|p| panic!("{on:?}: {p:?}"));
            let pack = policy
                .thresholds
                .as_ref()
                .map(|name| Arc::new(Pack::find(name, file).unwrap()));
            let catalog = introspect::parse(document.trim().trim_start_matches("SET").trim(), 1, None).unwrap();
            let now = "2026-06-01T04:00:00Z".parse().unwrap();
            let standings = LOGINS.map(|(login, declared)| {
                let principal = Principal {
                    login: login.into(),
                    groups: catalog.groups_of(login),
                    address: None,
                };
                let settings = declared.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
                let declared = Declared {
                    settings: settings.collect(),
                };
                policy.standing(&principal, &declared, now)
            });
            let ground = Ground::new(Arc::new(policy), Arc::new(catalog), pack, None);
            (on, ground, standings.to_vec())
        });
        Self {
            grounds: grounds.into(),
            late: false,
        }
    }

    /// Judges the statements of a sequence for one login (its place in [`LOGINS`]). Stops where `go_on` says so.
    pub fn judge(&self, sequence: &Sequence, login: usize, go_on: impl FnMut(usize, Said) -> bool) {
        self.judge_by(sequence, login, guard::examine, go_on);
    }

    /// The same, by another way to judge.
    pub fn judge_by(
        &self,
        sequence: &Sequence,
        login: usize,
        examine: impl Fn(&Ground, &Request<'_>) -> Result<Plan, Verdict>,
        mut go_on: impl FnMut(usize, Said) -> bool,
    ) {
        let (_, ground, standings) = self.grounds.iter().find(|(on, ..)| *on == sequence.on).unwrap();
        let plans: RefCell<[HashMap<String, Arc<StatementPlan>>; 2]> = RefCell::default();
        let token = TokenSettings {
            inner: "menshen.ki".into(),
            outer: "menshen.ko".into(),
        };
        for (at, sql) in sequence.statements.iter().enumerate() {
            let verdict = examine(
                ground,
                &Request {
                    text: sql,
                    login: LOGINS[login].0,
                    standing: &standings[login],
                    search_path: &sequence.path,
                    current_user: LOGINS[login].0,
                    token: &token,
                    cursor: &|name| plans.borrow()[0].get(name).cloned(),
                    prepared: &|name| plans.borrow()[1].get(name).cloned(),
                    extended: sequence.extended,
                    undone_at_end: false,
                    late: self.late,
                },
            );
            if let Ok(plan) = &verdict {
                for statement in plan.statements.iter() {
                    match &statement.kind {
                        StatementKind::Declare { name, inner, .. } => {
                            plans.borrow_mut()[0].insert(name.clone(), Arc::clone(inner));
                        }
                        StatementKind::Prepare { name, inner, .. } => {
                            plans.borrow_mut()[1].insert(name.clone(), Arc::clone(inner));
                        }
                        _ => {}
                    }
                }
            }
            if !go_on(at, said(ground, verdict)) {
                return;
            }
        }
    }
}

const GRANTED: &str = r#"write = ["phone", "name", "birth"]
derive = ["phone", "name", "email"]
ddl = true"#;

const LIMITED: &str = r#"
[[grants]]
role = "analyst"
rows = { "crm.messages" = "lower(body) <> 'x'", "crm.customer_locations" = "lat::text <> 'x'", "crm.orders" = "total > 1", "crm.transactions" = "similarity(bank_card, 'x') < 2", "crm.fresh" = "id <> 4" }
[[grants]]
role = "support"
rows = { "crm.fresh_child" = "id <> 5" }
[tables."own.messages"]
person = "customer_id"
of = "crm.customers"
columns = { body = "message" }
[tables."crm.fresh"]
person = "customer_id"
of = "crm.customers"
plain = ["id"]
columns = { known = "name", made = "phone" }
[tables."crm.fresh_child"]
person = "customer_id"
of = "crm.customers"
columns = { more = "email" }
[tables."crm.leads"]
person = "id"
columns = { phone = "phone" }
[tables."crm.carded"]
person = "card"
columns = { card = "id_card", owner = "name" }
[[grants]]
role = "support"
purpose = "customer_service"
clear = ["transaction"]
derive = ["transaction"]
[tables."crm.headed"]
person = "id"
columns = { phone = "phone" }
[functions]
trust = ["public.vouched"]
"#;

fn said(ground: &Ground, verdict: Result<Plan, Verdict>) -> Said {
    match verdict {
        Ok(plan) => {
            let mut whole = format!("{}\n", plan.text);
            for statement in plan.statements.iter() {
                describe(ground, statement, &mut whole);
            }
            let action = if plan.edited { "edited" } else { "forward" };
            Said {
                short: format!("{action} {}", hex::encode(&Sha256::digest(&whole)[..3])),
                whole,
            }
        }
        Err(Verdict::Refuse(refusal)) => Said {
            short: format!("refused {}", refusal.rule),
            whole: format!("{refusal:?}"),
        },
        Err(Verdict::InTurn { otherwise, .. }) => Said {
            short: format!("in turn {}", otherwise.rule),
            whole: format!("{otherwise:?}"),
        },
        Err(Verdict::Missing { names, otherwise }) => Said {
            short: format!("missing {}", otherwise.rule),
            whole: format!("{names:?} {otherwise:?}"),
        },
    }
}

/// A plan in words that do not depend on the server's numbers.
fn describe(ground: &Ground, plan: &StatementPlan, out: &mut String) {
    let column = |oid: &u32, attribute: &i16| {
        let relation = ground.catalog.relations.get(oid);
        let relation = relation.map(|r| format!("{}.{}", r.name.schema, r.name.name));
        format!("{}.{attribute}", relation.unwrap_or_default())
    };
    let cleared = plan.trip_wire.cleared.iter();
    let mut cleared: Vec<String> = cleared.map(|(oid, attribute)| column(oid, attribute)).collect();
    cleared.sort();
    let origins: Vec<String> = plan
        .origins
        .iter()
        .map(|o| {
            o.as_ref()
                .map_or_else(String::new, |(oid, attribute)| column(oid, attribute))
        })
        .collect();
    let (kind, inner) = match &plan.kind {
        StatementKind::Prepare { name, inner, source } => (format!("Prepare {name} {source}"), Some(inner)),
        StatementKind::Declare { name, inner, hold } => (format!("Declare {name}, hold {hold}"), Some(inner)),
        kind @ (StatementKind::Query
        | StatementKind::Write
        | StatementKind::Transaction
        | StatementKind::Set
        | StatementKind::Fetch { .. }
        | StatementKind::CloseCursor { .. }
        | StatementKind::CopyOut(_)
        | StatementKind::Explain { .. }
        | StatementKind::Execute { .. }
        | StatementKind::Deallocate { .. }
        | StatementKind::DiscardAll
        | StatementKind::Utility) => (format!("{kind:?}"), None),
    };
    let _ = writeln!(
        out,
        "  {kind}; {:?}; cleared {cleared:?}{}; origins {origins:?}; settings {}, ddl {}, free {}, ends {}, meanings {}, scrub {}\n  {}",
        plan.meter,
        if plan.trip_wire.unrestricted { " all" } else { "" },
        plan.may_change_settings,
        plan.ddl,
        plan.context_free,
        plan.ends_transaction,
        plan.meanings.len(),
        plan.scrub,
        serde_json::to_string(&plan.report).unwrap(),
    );
    if let Some(inner) = inner {
        describe(ground, inner, out);
    }
}

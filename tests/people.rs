//! Never under-counted (DESIGN §1, promise 5): whoever's clear values arrive is in the ledger. Every statement runs under a login of its
//! own, so that its ledger holds what that statement charged and nothing else. What arrived is read off the bytes: phone numbers, e-mail
//! addresses, identity and bank cards and messages that only one person of the shop has.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use aho_corasick::{AhoCorasick, MatchKind};
use serde::Deserialize;

use crate::generator::Generator;
use crate::harness::menshen::unlimited_policy;
use crate::harness::{Menshen, Postgres, Raw};

/// Who sees everything as it is, but may store nothing elsewhere; and who may.
const CLEAR: &str = r#"
[tables."crm.inbox"]
person = "customer_id"
of = "crm.customers"
columns = { body = "message" }
[roles.counted]
logins = ["counted_*"]
[roles.deriving]
logins = ["deriving_*"]
[[grants]]
role = "counted"
clear = ["*"]
[[grants]]
role = "deriving"
clear = ["*"]
derive = ["*"]
"#;

/// Categories of the pack, in its order.
const CATEGORIES: [&str; 3] = ["critical", "sensitive", "general"];

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// Statements of one login, in one transaction, separated by a line of its own `;;`.
    sql: Vec<String>,
    /// Nothing of it may be refused.
    #[serde(default)]
    answered: bool,
    /// Least people that each charges, where the bytes do not show it.
    #[serde(default)]
    least: u64,
    /// The server may raise an error.
    #[serde(default)]
    fails: bool,
    /// Asked by the login that may store clear values elsewhere.
    #[serde(default)]
    derive: bool,
}

/// Values of the shop that only one person has.
struct Canaries {
    find: AhoCorasick,
    /// By pattern: category and person.
    whose: Vec<(usize, String)>,
}

impl Canaries {
    fn of(database: &str) -> Self {
        let listed = Postgres::get().sql(
            database,
            "SELECT 2, id, phone FROM crm.customers UNION ALL SELECT 2, id, email FROM crm.customers
             UNION ALL SELECT 1, id, id_card FROM crm.customers WHERE id_card IS NOT NULL
             UNION ALL SELECT 0, customer_id, bank_card FROM crm.transactions UNION ALL SELECT 0, customer_id, body FROM crm.messages",
        );
        let (mut values, mut whose) = (Vec::new(), Vec::new());
        for line in listed.lines() {
            let mut parts = line.splitn(3, '|');
            let category = parts.next().unwrap().parse().unwrap();
            whose.push((category, parts.next().unwrap().to_owned()));
            values.push(parts.next().unwrap().to_owned());
        }
        let find = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&values)
            .unwrap();
        Self { find, whose }
    }

    /// People whose values stand in the bytes, by category.
    fn people(&self, bytes: &[u8]) -> [BTreeSet<&str>; 3] {
        let mut found = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
        for hit in self.find.find_iter(bytes) {
            let (category, person) = &self.whose[hit.pattern().as_usize()];
            found[*category].insert(person.as_str());
        }
        found
    }
}

/// What one login asked and received.
struct Asked {
    login: String,
    what: String,
    arrived: [usize; 3],
    least: u64,
    error: Option<(String, String)>,
}

/// Logins that need no password, so that there can be many.
fn make_logins(prefix: &str, count: usize) {
    let mut sql = String::new();
    for i in 0..count {
        writeln!(sql, "CREATE ROLE {prefix}_{i} LOGIN IN ROLE many_logins;").unwrap();
    }
    Postgres::get().sql("postgres", &sql);
}

/// People newly charged to each login, by category.
fn charged(menshen: &Menshen) -> BTreeMap<String, [u64; 3]> {
    let mut all: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    for line in menshen.audit().lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        if event["event"] != "release" {
            continue;
        }
        let sums = all.entry(event["login"].as_str().unwrap().to_owned()).or_default();
        for (category, sum) in sums.iter_mut().enumerate() {
            *sum += event["new_people"][category].as_u64().unwrap_or(0);
        }
    }
    all
}

/// What was charged too little for.
fn under_counts(menshen: &Menshen, asked: &[Asked]) -> Vec<String> {
    let charged = charged(menshen);
    let mut found = Vec::new();
    for one in asked {
        let counted = charged.get(&one.login).copied().unwrap_or_default();
        let short = one.arrived.iter().zip(counted).any(|(a, c)| *a as u64 > c);
        let least = one.error.is_none() && counted.iter().sum::<u64>() < one.least;
        if short || least {
            found.push(format!(
                "{}: people of {:?} {CATEGORIES:?} arrived (at least {} by the case), {counted:?} were charged",
                one.what, one.arrived, one.least
            ));
        }
    }
    found
}

/// Asks one statement, or several in one transaction, as a login of its own.
fn ask(menshen: &Menshen, canaries: &Canaries, login: String, sql: &str, extended: bool) -> Asked {
    let mut raw = Raw::connect(menshen.port, &menshen.database, &login, "", "").unwrap();
    raw.simple("SET statement_timeout = '5s'");
    raw.simple("BEGIN");
    let mut error = None;
    for step in sql.split("\n;;\n") {
        let answer = if extended {
            raw.extended(step, &[], false)
        } else {
            raw.simple(step)
        };
        error = error.or(answer.error);
    }
    raw.simple("ROLLBACK");
    Asked {
        login,
        what: sql.to_owned(),
        arrived: canaries.people(&raw.received).map(|p| p.len()),
        least: 0,
        error,
    }
}

/// A shop with everything that the statements use.
fn shop() -> (Menshen, Canaries) {
    let menshen = Menshen::with(&format!("{}{CLEAR}", unlimited_policy()), "");
    Postgres::get().sql(&menshen.database, include_str!("cases/counts.sql"));
    let canaries = Canaries::of(&menshen.database);
    (menshen, canaries)
}

#[test]
fn people_of_written_statements_are_in_the_ledger() {
    let cases: Cases = toml::from_str(include_str!("cases/counts.toml")).unwrap();
    let (menshen, canaries) = shop();
    let number: usize = cases.cases.iter().map(|c| c.sql.len()).sum();
    make_logins("counted", number);
    make_logins("deriving", number);
    let (mut asked, mut refused) = (Vec::new(), Vec::new());
    for case in &cases.cases {
        for sql in &case.sql {
            let prefix = if case.derive { "deriving" } else { "counted" };
            let login = format!("{prefix}_{}", asked.len());
            let mut one = ask(&menshen, &canaries, login, sql, asked.len() % 2 == 1);
            one.least = case.least;
            one.what = format!("{}: {sql}", case.name);
            if let Some((code, message)) = &one.error {
                let by_menshen = matches!(code.as_str(), "0A000" | "42501");
                if case.answered || !(by_menshen || case.fails) {
                    refused.push(format!("{}\n    {code} {message}", one.what));
                }
            }
            asked.push(one);
        }
    }
    let found = under_counts(&menshen, &asked);
    assert!(
        found.is_empty() && refused.is_empty(),
        "{} under-counted:\n{}\n{} not answered:\n{}",
        found.len(),
        found.join("\n"),
        refused.len(),
        refused.join("\n")
    );
}

/// Makes queries of two columns, `k` (a number, mostly of the person) and `v` (values of people), by laying odd levels over each other.
struct Layers {
    state: u64,
}

impl Layers {
    fn below(&mut self, n: u64) -> u64 {
        // splitmix64
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn base(&mut self) -> String {
        self.pick(&[
            "SELECT id AS k, phone AS v FROM crm.customers WHERE id <= 40",
            "SELECT id AS k, email AS v FROM crm.customers WHERE id BETWEEN 20 AND 60",
            "SELECT id AS k, id_card AS v FROM crm.customers WHERE id <= 30",
            "SELECT customer_id AS k, body AS v FROM crm.messages WHERE customer_id <= 40",
            "SELECT customer_id AS k, bank_card AS v FROM crm.transactions WHERE customer_id < 40",
            "SELECT id AS k, body AS v FROM crm.inbox WHERE id <= 30",
            "SELECT id AS k, tel AS v FROM crm.v_contacts WHERE id <= 40",
            "SELECT message_id AS k, body AS v FROM crm.v_talk WHERE message_id <= 30",
            "SELECT id AS k, phone AS v FROM crm.v_lag WHERE id <= 30",
            "SELECT id AS k, one || two AS v FROM crm.v_pair WHERE id <= 30",
            "SELECT c.id AS k, c.phone || m.body AS v FROM crm.customers c JOIN crm.messages m ON m.customer_id = c.id WHERE c.id < 40",
            "SELECT o.id AS k, c.phone AS v FROM crm.orders o LEFT JOIN crm.customers c ON c.id = o.customer_id + 200 WHERE o.id < 60",
        ])
        .to_owned()
    }

    /// A query over `t` in which TWO stands for another.
    fn layer(&mut self) -> &'static str {
        self.pick(&[
            "SELECT k, v FROM (ONE) t WHERE k % 7 < 3",
            "SELECT k, lag(v) OVER (ORDER BY k, v) AS v FROM (ONE) t",
            "SELECT k, lead(v, 2, 'none') OVER (PARTITION BY k % 3 ORDER BY v) AS v FROM (ONE) t",
            "SELECT k, first_value(v) OVER (PARTITION BY k % 5 ORDER BY k DESC, v) AS v FROM (ONE) t",
            "SELECT k, nth_value(v, 2) OVER w AS v FROM (ONE) t WINDOW w AS (ORDER BY k, v ROWS BETWEEN 3 PRECEDING AND 3 FOLLOWING)",
            "SELECT k, string_agg(v, ',') OVER (PARTITION BY k % 4) AS v FROM (ONE) t",
            "SELECT k, string_agg(v, ',') OVER (ORDER BY k, v ROWS 2 PRECEDING) AS v FROM (ONE) t",
            "SELECT max(k) AS k, string_agg(v, ',') AS v FROM (ONE) t GROUP BY k % 5",
            "SELECT k, string_agg(v, ',') AS v FROM (ONE) t GROUP BY k",
            "SELECT k % 4 AS k, max(v) AS v FROM (ONE) t GROUP BY ROLLUP (k % 4)",
            "SELECT max(k) AS k, lag(max(v)) OVER (ORDER BY max(k)) AS v FROM (ONE) t GROUP BY k % 6",
            "SELECT DISTINCT k % 50 AS k, v FROM (ONE) t",
            "SELECT DISTINCT ON (k % 4) k, v FROM (ONE) t ORDER BY k % 4, k, v",
            "(ONE) UNION ALL (TWO)",
            "(ONE) UNION (TWO)",
            "(ONE) EXCEPT (TWO)",
            "(ONE) INTERSECT ALL (ONE)",
            "WITH a AS (ONE) SELECT x.k, x.v || y.v AS v FROM a x JOIN a y ON y.k = x.k + 1",
            "WITH a AS MATERIALIZED (ONE) SELECT x.k, (SELECT string_agg(v, ',') FROM a b WHERE b.k <= x.k + 3) AS v FROM a x",
            "WITH a AS (ONE) SELECT p.id::bigint AS k, (SELECT v FROM a WHERE k >= p.id ORDER BY k, v LIMIT 1) AS v FROM crm.products p",
            "WITH a AS (ONE), b AS (SELECT k FROM a) SELECT b.k, a.v FROM a, b WHERE b.k = a.k + 1",
            "WITH a AS (ONE) SELECT 1::bigint AS k, json_agg(a)::text AS v FROM a",
            "SELECT p.id::bigint AS k, (SELECT v FROM (ONE) s ORDER BY k, v LIMIT 1 OFFSET p.id % 7) AS v FROM crm.products p",
            "SELECT p.id::bigint AS k, (SELECT v FROM (ONE) s LIMIT 1) AS v FROM crm.products p",
            "SELECT 1::bigint AS k, array_to_string(ARRAY(SELECT v FROM (ONE) s), ',') AS v",
            "SELECT k, t::text AS v FROM (ONE) t",
            "SELECT k, to_jsonb(t) ->> 'v' AS v FROM (ONE) t",
            "SELECT k, (t).v AS v FROM (ONE) t",
            "SELECT t.k, u.v FROM (ONE) t, LATERAL (SELECT t.v || '!' AS v) u",
            "SELECT t.k, u.v FROM (ONE) t, LATERAL (SELECT string_agg(s.v, ',') AS v FROM (TWO) s WHERE s.k BETWEEN t.k AND t.k + 2) u",
            "SELECT t.k, f AS v FROM (ONE) t, regexp_split_to_table(t.v, ',') f",
            "SELECT t.k, f AS v FROM (ONE) t, concat(t.v, (SELECT max(v) FROM (TWO) s)) f",
            "SELECT k, v FROM (ONE) t NATURAL JOIN (SELECT 1 AS one) o",
            "SELECT k, v FROM ((ONE) t CROSS JOIN (VALUES (1), (2)) w(n)) AS j",
            "SELECT t.k, COALESCE(s.v, t.v) AS v FROM (ONE) t LEFT JOIN (TWO) s ON s.k = t.k + 5",
            "SELECT k, s.v || COALESCE(t.v, '') AS v FROM (ONE) t FULL JOIN (TWO) s USING (k)",
            "SELECT k, v FROM (ONE) t RIGHT JOIN (TWO) s USING (k, v)",
            "WITH RECURSIVE r AS (SELECT k, v, 1 AS n FROM (ONE) t UNION ALL SELECT k, v, n + 1 FROM r WHERE n < 3) SELECT k, v FROM r",
            "WITH RECURSIVE r AS (SELECT k, v, 1 AS n FROM (ONE) t UNION ALL SELECT r.k, r.v || s.v, n + 1 FROM r JOIN (TWO) s ON s.k = r.k + 1 WHERE n < 3) SELECT k, v FROM r",
            "SELECT column1 AS k, column2 AS v FROM (VALUES (1::bigint, (SELECT string_agg(v, ',') FROM (ONE) s)), (2, 'x')) q",
            "SELECT k, CASE WHEN k % 2 = 0 THEN v ELSE (SELECT max(v) FROM (TWO) s) END AS v FROM (ONE) t",
            "SELECT k, v FROM (ONE) t WHERE EXISTS (SELECT FROM (TWO) s WHERE s.k = t.k)",
        ])
    }

    fn query(&mut self, depth: u64) -> String {
        if depth == 0 {
            return self.base();
        }
        let layer = self.layer();
        let (one, two) = (self.query(depth - 1), self.base());
        layer.replace("ONE", &one).replace("TWO", &two)
    }

    fn statement(&mut self) -> String {
        let depth = 1 + self.below(3);
        let sql = self.query(depth);
        match self.below(7) {
            0 => format!("SELECT v FROM ({sql}) q ORDER BY k, v LIMIT 2"),
            1 => format!("SELECT v FROM ({sql}) q ORDER BY k DESC, v OFFSET 3 LIMIT 1"),
            2 => format!("COPY (SELECT v FROM ({sql}) q ORDER BY k LIMIT 3) TO STDOUT"),
            3 => format!("DECLARE c CURSOR FOR SELECT v FROM ({sql}) q ORDER BY k\n;;\nFETCH 2 FROM c"),
            4 => format!("SELECT max(v) FROM ({sql}) q"),
            5 => format!("WITH w AS ({sql}) SELECT w FROM w LIMIT 2"),
            _ => sql,
        }
    }
}

#[test]
fn people_of_generated_statements_are_in_the_ledger() {
    let number = |name: &str, default: usize| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (count, first) = (number("MENSHEN_GENERATED", 700) / 3, number("MENSHEN_SEED", 1));
    let (menshen, canaries) = shop();
    make_logins("counted_g", count);
    let mut asked = Vec::new();
    let mut refusals: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for i in 0..count {
        let seed = (first + i) as u64;
        let sql = if i % 4 == 3 {
            Generator::new(seed).statement()
        } else {
            Layers { state: seed }.statement()
        };
        let one = ask(&menshen, &canaries, format!("counted_g_{i}"), &sql, seed % 2 == 1);
        if let Some((code, message)) = &one.error
            && matches!(code.as_str(), "0A000" | "42501")
        {
            let entry = refusals.entry(message.chars().take(90).collect()).or_default();
            entry.0 += 1;
            if entry.1.is_empty() || entry.1.len() > sql.len() {
                entry.1 = sql;
            }
        }
        asked.push(one);
    }
    let found = under_counts(&menshen, &asked);
    let refused: usize = refusals.values().map(|(n, _)| n).sum();
    let wrong = asked.iter().filter(|a| a.error.is_some()).count() - refused;
    println!("{count} asked, {refused} refused, {wrong} in error");
    for (why, (count, example)) in &refusals {
        println!("{count:5}  {why}\n       {example}");
    }
    for one in asked.iter().filter(|a| {
        a.error
            .as_ref()
            .is_some_and(|(code, _)| !matches!(code.as_str(), "0A000" | "42501" | "57014"))
    }) {
        println!("in error: {} {:?}", one.what, one.error);
    }
    assert!(found.is_empty(), "{} under-counted:\n{}", found.len(), found.join("\n"));
    assert!(
        refused * 3 < count && wrong * 10 < count,
        "{refused} refused, {wrong} in error of {count}"
    );
}

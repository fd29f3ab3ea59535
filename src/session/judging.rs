//! Having a text judged: under the server's actual settings, the newest policy and catalog.
//!
//! Settings are asked from the server, never guessed, and only when a judgement needs them: a text that depends on
//! nothing (BEGIN, SET, SHOW …) is judged without, so that no query of ours takes a snapshot before `SET TRANSACTION`.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::owed::{Key, Owed, Portal, Prepared, Question};
use super::{Hold, Judge, Known, Session};
use crate::catalog::introspect;
use crate::guard::plan::Meaning;
use crate::guard::{ContextNumber, Ground, Late, Plan, Request, StatementKind, StatementPlan, Verdict};
use crate::principal::Declared;
use crate::wire::{Refusal, message};

/// What came of it.
pub(super) enum Judging {
    /// May be sent. The key is `None` where the plan depends on nothing.
    Plan(Plan, Option<Arc<Key>>),
    /// Something must be known first; the message comes again.
    Wait,
    /// Its statements must be judged one after the other: the bytes of each.
    InTurn(Box<[std::ops::Range<usize>]>),
    Refuse(Refusal),
}

const PROBE: &str = "menshen.probe";
/// How often a session has the catalog read for columns that it does not have.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(2);
/// PostgreSQL's NAMEDATALEN, without the end.
const NAME_BYTES_MAX: usize = 63;

impl Session {
    /// A policy that is loaded while a transaction has a catalog of its own holds there, too.
    pub(super) fn follow_policy(&mut self) {
        let (Some(own), Some(judge)) = (&self.own_ground, &self.judge) else {
            return;
        };
        let shared = judge.ground();
        if own.policy.epoch != shared.policy.epoch {
            let policy = Arc::clone(&shared.policy);
            let ground = Ground::new(policy, Arc::clone(&own.catalog), shared.pack.clone(), Some(&shared));
            self.own_ground = Some(Arc::new(ground));
        }
    }

    /// Judges a text of the client.
    pub(super) fn judge_text(&mut self, text: &str, extended: bool, now: Timestamp) -> Judging {
        if let Err(refusal) = self.readable(text) {
            return Judging::Refuse(refusal);
        }
        let Some(judge) = self.judge.clone() else {
            return Judging::Refuse(Refusal::unsupported(
                "no-judge",
                "Menshen is not ready to judge statements",
                "try again",
            ));
        };
        let ground = self.own_ground.clone().unwrap_or_else(|| judge.ground());
        let behind = self.is_behind();
        let unknown = self.known.is_none() || self.stale || behind;
        if unknown || self.status == b'E' {
            let known = self.standpoint(&ground, now).map(|s| Arc::clone(&s.key));
            let key = known.unwrap_or_else(|| self.key_of_nothing(&ground, now));
            let Some(tried) = self.examine(judge.as_ref(), &ground, text, extended, &key, None) else {
                return self.wait_to_judge();
            };
            match tried {
                Ok(plan) if plan.statements.iter().all(|s| s.context_free) => return Judging::Plan(plan, None),
                // What the grammar does not accept, no setting will mend.
                Err(Verdict::Refuse(refusal)) if matches!(refusal.rule, "syntax" | "key-setting" | "one-statement") => {
                    return Judging::Refuse(refusal);
                }
                Ok(_) | Err(_) => {}
            }
            if self.status == b'E' {
                return Judging::Refuse(aborted());
            }
            if behind && self.refreshed_for_front.is_some() {
                return Judging::Refuse(Refusal::unsupported(
                    "catalog-behind",
                    "the catalog has changed and Menshen cannot read it now",
                    "the service login of Menshen cannot reach the database; tell its operators",
                ));
            }
            if self.asks_first(&ground, behind) {
                return Judging::Wait;
            }
        }
        if self.own_stale && (self.status == b'T' || self.pipeline) {
            // What this transaction has made or changed, only its own connection can see.
            self.read_catalog();
            return Judging::Wait;
        }
        let Some((key, number)) = self.standpoint(&ground, now).map(|s| (Arc::clone(&s.key), s.number)) else {
            return Judging::Wait;
        };
        let Some(tried) = self.examine(judge.as_ref(), &ground, text, extended, &key, number) else {
            return self.wait_to_judge();
        };
        match tried {
            Ok(plan) => {
                if plan.statements.iter().any(|s| s.guesses) && self.may_look_again(now) {
                    self.refresh_catalog();
                    return Judging::Wait;
                }
                let free = plan.statements.iter().all(|s| s.context_free);
                Judging::Plan(plan, (!free).then_some(key))
            }
            Err(Verdict::Refuse(refusal)) => Judging::Refuse(refusal),
            Err(Verdict::InTurn { pieces, otherwise }) => {
                if extended {
                    Judging::Refuse(otherwise)
                } else {
                    Judging::InTurn(pieces)
                }
            }
            Err(Verdict::Missing { otherwise, .. }) => {
                if self.refreshed_for_front.is_some() || self.own_ground.is_some() {
                    return Judging::Refuse(otherwise);
                }
                self.refresh_catalog();
                Judging::Wait
            }
        }
    }

    /// Whether the catalog is read anew for a column that it does not have: somebody may have added it past Menshen. A program that names one
    /// again and again does not have it read each time.
    fn may_look_again(&mut self, now: Timestamp) -> bool {
        if self.refreshed_for_front.is_some() || self.own_ground.is_some() {
            return false;
        }
        let lately = self.looked_again.is_some_and(|at| now.duration_since(at) < LOOK_AGAIN);
        if !lately {
            self.looked_again = Some(now);
        }
        !lately
    }

    /// Asks for the catalog or the settings where they may be others than this session knows; then the message at hand must wait.
    fn asks_first(&mut self, ground: &Ground, behind: bool) -> bool {
        if behind {
            self.refresh_catalog();
        } else if self.known.is_none() || self.stale {
            self.probe(ground);
        } else {
            return false;
        }
        true
    }

    /// Whether settings and catalog are known; they are asked for where they are not.
    pub(super) fn settled(&mut self) -> bool {
        let Some(ground) = self.ground() else { return true };
        let behind = self.is_behind();
        // A catalog that can't be read has been asked for: the caller finds no key and refuses.
        behind && self.refreshed_for_front.is_some() || !self.asks_first(&ground, behind)
    }

    /// Whether the catalog has changed since it was last read, or since it was read for the message at hand.
    pub(super) fn is_behind(&self) -> bool {
        let judge = self.judge.as_ref();
        self.catalog_behind || self.refreshed_for_front != Some(true) && judge.is_some_and(|j| j.is_behind())
    }

    /// What is known of a session that has not been asked for its settings.
    fn key_of_nothing(&self, ground: &Ground, now: Timestamp) -> Arc<Key> {
        let declared = Declared::default();
        Arc::new(Key {
            standing: ground.policy.standing(&self.principal(ground), &declared, now),
            search_path: vec!["pg_catalog".to_owned()],
            current_user: String::new(),
            policy: ground.policy.epoch,
            catalog: ground.catalog.epoch,
            late: Late::Never,
        })
    }

    fn wait_to_judge(&mut self) -> Judging {
        self.hold = Some(Hold::Judge);
        self.out.push(super::Action::JudgeAway);
        Judging::Wait
    }

    /// `None`: it takes long, and must be done elsewhere.
    fn examine(
        &self,
        judge: &dyn Judge,
        ground: &Ground,
        text: &str,
        extended: bool,
        key: &Key,
        number: Option<ContextNumber>,
    ) -> Option<Result<Plan, Verdict>> {
        let prepared = |name: &str| self.lookup(name).and_then(|p| p.inner(name));
        let cursor = |name: &str| self.cursor(name);
        let request = Request {
            text,
            login: &self.login,
            standing: &key.standing,
            search_path: &key.search_path,
            current_user: &key.current_user,
            token: &self.token,
            cursor: &cursor,
            prepared: &prepared,
            undone_at_end: self.transaction_changed || self.transaction_ddl,
            extended,
            late: key.late.allows(extended),
        };
        if !self.is_away && judge.judges_away() {
            return number.and_then(|number| judge.kept(&request, number)).map(Ok);
        }
        Some(judge.examine(ground, &request, number))
    }

    /// What the client wrote, as Menshen and the server both read it.
    pub(super) fn in_utf8<'t>(&self, written: &'t [u8]) -> Result<&'t str, Refusal> {
        let text = std::str::from_utf8(written).map_err(|_| Refusal {
            sqlstate: "22021",
            ..Refusal::unsupported(
                "client-encoding",
                "invalid byte sequence for encoding \"UTF8\"",
                "Menshen reads statements and names in UTF-8: SET client_encoding = 'UTF8'",
            )
        })?;
        if text.is_ascii() {
            return Ok(text);
        }
        // The server takes, and reports, any of an encoding's names in any spelling.
        let name: String = self.encoding.chars().filter(char::is_ascii_alphanumeric).collect();
        if matches!(name.as_str(), "UTF8" | "UNICODE" | "SQLASCII") {
            return Ok(text);
        }
        Err(Refusal::unsupported(
            "client-encoding",
            format!(
                "Menshen reads statements and names in UTF-8; client_encoding is {}",
                self.encoding
            ),
            "SET client_encoding = 'UTF8'",
        ))
    }

    /// A name of a statement or portal. The server knows it by its first 63 bytes: two that it takes for one must not be two here.
    pub(super) fn name<'t>(&self, written: &'t [u8]) -> Result<&'t str, Refusal> {
        if written.len() > NAME_BYTES_MAX {
            return Err(Refusal {
                sqlstate: "42622",
                ..Refusal::unsupported(
                    "name-too-long",
                    format!("a statement's or portal's name of more than {NAME_BYTES_MAX} bytes"),
                    "use a shorter one: PostgreSQL tells such names apart by their beginning alone",
                )
            });
        }
        self.in_utf8(written)
    }

    fn readable(&self, text: &str) -> Result<(), Refusal> {
        if text.len() > self.settings.statement_bytes_max {
            return Err(Refusal {
                sqlstate: "54000",
                ..Refusal::unsupported(
                    "statement-bytes",
                    format!("statement is longer than {} bytes", self.settings.statement_bytes_max),
                    "send it in smaller parts; a bulk load belongs into COPY",
                )
            });
        }
        if !self.standard_strings && text.contains('\\') {
            return Err(Refusal::unsupported(
                "standard-conforming-strings",
                "Menshen cannot judge a text with backslashes while standard_conforming_strings is off",
                "SET standard_conforming_strings = on, or write E'…'",
            ));
        }
        Ok(())
    }

    /// Asks the server for the settings that decisions depend on.
    fn probe(&mut self, ground: &Ground) {
        let names: Vec<String> = ground.policy.setting_names().into_iter().collect();
        let mut text = "SELECT pg_catalog.to_json(pg_catalog.current_schemas(true))::pg_catalog.text, CURRENT_USER::pg_catalog.text".to_owned();
        for name in &names {
            text.push_str(&format!(", pg_catalog.current_setting('menshen.{name}', true)"));
        }
        self.ask(PROBE, &text, Question::Settings(names));
        self.end_of_questions();
    }

    /// Policy and catalog as this session sees them now.
    pub(super) fn ground(&self) -> Option<Arc<Ground>> {
        self.own_ground
            .clone()
            .or_else(|| self.judge.as_ref().map(|j| j.ground()))
    }

    /// Reads the catalog on the client's own connection, inside its transaction.
    fn read_catalog(&mut self) {
        // Definitions must be printed under an empty search_path, and the question must not be compiled (most of its time where there are
        // hundreds of tables). Both are the client's business again afterwards.
        const BEFORE: &str = "SELECT pg_catalog.set_config('menshen.kpath', pg_catalog.current_setting('search_path'), true), \
             pg_catalog.set_config('menshen.kjit', pg_catalog.current_setting('jit'), true), \
             pg_catalog.set_config('search_path', '', true), pg_catalog.set_config('jit', 'off', true)";
        const AFTER: &str = "SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('menshen.kpath'), true), \
             pg_catalog.set_config('jit', pg_catalog.current_setting('menshen.kjit'), true)";
        self.ask("menshen.path", BEFORE, Question::Path);
        self.ask("menshen.catalog", introspect::QUERY, Question::Catalog);
        self.ask("menshen.pathback", AFTER, Question::PathBack);
        self.end_of_questions();
    }

    pub(super) fn ask(&mut self, name: &str, text: &str, question: Question) {
        for part in [
            message::parse(name, text, &[]),
            message::bind_plain(name, name),
            message::execute(name),
            // A named portal lives until the transaction ends: the next question of the same transaction needs its name.
            message::close_portal(name),
            message::close_statement(name),
        ] {
            self.send_server(part);
        }
        self.owed.push_back(Owed::Probe {
            question,
            values: None,
            closed: false,
        });
    }

    pub(super) fn end_of_questions(&mut self) {
        if self.pipeline {
            self.send_server(message::flush());
        } else {
            self.send_server(message::sync());
            self.owed.push_back(Owed::Sync {
                own: true,
                settles: false,
                behind_copy: false,
            });
        }
        self.hold = Some(Hold::Probe);
    }

    /// A question of ours has been answered.
    pub(super) fn answered(&mut self, question: Question, values: Option<Vec<Option<String>>>) {
        match question {
            Question::Settings(names) => self.probed(&names, values),
            Question::Path => {}
            Question::Catalog => {
                let document = values.unwrap_or_default().into_iter().next().flatten();
                self.own_catalogs += 1;
                // Epochs of a session's own are no others': the shared ones count from below.
                let epoch = u64::MAX / 2 + self.own_catalogs;
                let Some((document, judge)) = document.zip(self.judge.as_ref()) else {
                    self.violation("the server did not answer the question for its catalog");
                    return;
                };
                let shared = judge.ground();
                let before = self.own_ground.as_ref().unwrap_or(&shared);
                let catalog = match introspect::parse(&document, epoch, Some(&before.catalog)) {
                    Ok(catalog) => catalog,
                    Err(why) => {
                        self.violation(&why.to_string());
                        return;
                    }
                };
                let ground = Ground::new(
                    Arc::clone(&shared.policy),
                    Arc::new(catalog),
                    shared.pack.clone(),
                    Some(&shared),
                );
                self.own_ground = Some(Arc::new(ground));
                self.own_stale = false;
            }
            Question::Function(oid) => {
                let names = values.and_then(|v| match v.as_slice() {
                    [Some(schema), Some(name)] => Some((schema.clone(), name.clone())),
                    _ => None,
                });
                self.function = Some((oid, names));
                if self.hold == Some(Hold::Probe) {
                    self.hold = None;
                }
            }
            Question::PathBack => {
                if self.hold == Some(Hold::Probe) {
                    self.hold = None;
                }
            }
        }
    }

    /// The probe's row has come.
    pub(super) fn probed(&mut self, names: &[String], values: Option<Vec<Option<String>>>) {
        let mut values = values.unwrap_or_default().into_iter();
        let path = values
            .next()
            .flatten()
            .and_then(|json| serde_json::from_str::<Vec<String>>(&json).ok());
        let user = values.next().flatten();
        let (Some(search_path), Some(current_user)) = (path, user) else {
            self.violation("the server did not answer the question for its settings");
            return;
        };
        let settings = names
            .iter()
            .zip(values)
            .filter_map(|(name, value)| Some((name.clone(), value.filter(|v| !v.is_empty())?)))
            .collect();
        let known = Known {
            search_path,
            current_user,
            declared: Declared { settings },
        };
        if self.known.as_deref() != Some(&known) {
            self.known = Some(Arc::new(known));
        }
        self.stale = false;
        if self.hold == Some(Hold::Probe) {
            self.hold = None;
        }
    }

    /// The plan of what FETCH of a name shows when the server has worked through what was sent: a cursor's or a portal's.
    pub(super) fn cursor(&self, name: &str) -> Option<Arc<StatementPlan>> {
        // A Bind that is not yet answered takes the name, or fails and what follows with it.
        if let Some(pending) = self.pending_portal(name) {
            return pending.and_then(|p| p.statement());
        }
        let declared = self.cursors.get(name).map(|c| Arc::clone(&c.plan));
        declared.or_else(|| self.portals.get(name).and_then(Portal::statement))
    }

    /// Whether the names in a plan mean what they meant when it was made.
    pub(super) fn means_the_same(&self, plan: &StatementPlan) -> bool {
        plan.meanings.iter().all(|meaning| match meaning {
            Meaning::Cursor { name, plan } => match (plan, self.cursor(name)) {
                (Some(then), Some(now)) => Arc::ptr_eq(then, &now),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            },
            Meaning::Prepared { name, plan } => {
                let now = self.lookup(name).and_then(|p| p.inner(name));
                now.is_some_and(|now| Arc::ptr_eq(plan, &now))
            }
        })
    }

    /// A prepared statement as the server will know it when it has worked through what was sent: pending entries first.
    pub(super) fn lookup(&self, name: &str) -> Option<Arc<Prepared>> {
        for owed in self.owed.iter().rev() {
            match owed {
                Owed::Parse { name: n, prepared, .. } if super::same_name(n, name) => {
                    return Some(Arc::clone(prepared)).filter(|p| self.may_name(p));
                }
                Owed::Close { statement: Some(n), .. } if super::same_name(n, name) => return None,
                // The server forgets the statement without a name.
                Owed::Query { call: false, .. } if name.is_empty() => return None,
                _ => {}
            }
        }
        self.statements.get(name).cloned().filter(|p| self.may_name(p))
    }
}

impl Prepared {
    /// The plan that EXECUTE of this name runs.
    pub(super) fn inner(&self, name: &str) -> Option<Arc<StatementPlan>> {
        if !self.by_sql {
            return self.statement();
        }
        self.plan.statements.iter().find_map(|s| match &s.kind {
            StatementKind::Prepare { name: n, inner, .. } if super::same_name(n, name) => Some(Arc::clone(inner)),
            _ => None,
        })
    }
}

/// In an aborted transaction the server takes nothing but its end; its own words.
pub(super) fn aborted() -> Refusal {
    Refusal {
        sqlstate: "25P02",
        rule: "aborted-transaction",
        message: "current transaction is aborted, commands ignored until end of transaction block".to_owned(),
        hint: "".into(),
        position: None,
        incident: false,
    }
}

//! What was prepared, bound or declared earlier, looked at again before it is used: under another standing, path, policy or catalog it is judged
//! anew, and prepared again or refused.

use std::sync::Arc;

use jiff::Timestamp;

use super::Session;
use super::judging::Judging;
use super::owed::{Depends, Owed, Portal, Prepared};
use crate::guard::{Plan, StatementKind, StatementPlan};
use crate::wire::message::RESULT_TYPE;
use crate::wire::{Refusal, message};

/// What has become of a prepared statement.
pub(super) enum Freshened {
    Same,
    New(Arc<Prepared>),
    Wait,
    Refuse(Refusal),
}

/// What has become of the statements that a query string runs by EXECUTE.
pub(super) enum Renewed {
    Nothing,
    /// They mean something else now: the string must be judged again. True: when the server has answered.
    Again(bool),
    Refuse(Refusal),
}

impl Session {
    /// What a portal shows, it shows under what it was bound under, and what its text named then. False: settings are asked first.
    pub(super) fn fresh_portal(
        &mut self,
        name: &str,
        portal: &Portal,
        plan: &StatementPlan,
        now: Timestamp,
    ) -> Result<bool, Refusal> {
        if !self.means_the_same(plan) {
            return Err(Refusal::unsupported(
                "stale-portal",
                format!(
                    "portal \"{name}\" runs something whose name has come to mean something else since it was bound"
                ),
                "bind it again",
            ));
        }
        // In an aborted transaction the server runs nothing.
        let Depends::On(under) = &portal.under else {
            return Ok(true);
        };
        if self.status == b'E' {
            return Ok(true);
        }
        if !self.settled() {
            return Ok(false);
        }
        if under.is_some() && self.under_now(now) == *under {
            return Ok(true);
        }
        Err(Refusal::unsupported(
            "stale-portal",
            format!("portal \"{name}\" was bound under another policy or purpose"),
            "bind it again",
        ))
    }

    /// A cursor shows what it was declared under: under another standing or policy it must be declared again.
    pub(super) fn fresh_cursor(&mut self, name: &str, now: Timestamp) -> Result<(), Refusal> {
        let declared = self.cursors.get(name).map(|c| c.under.clone());
        let Some(Depends::On(under)) = declared.or_else(|| self.find_portal(name).map(|p| p.under)) else {
            return Ok(());
        };
        if under.is_some() && self.under_now(now) == under {
            return Ok(());
        }
        Err(Refusal::unsupported(
            "stale-cursor",
            format!("cursor \"{name}\" was declared under another policy or purpose"),
            "CLOSE it and declare it again",
        ))
    }

    /// What EXECUTE of this name runs, as it must be run now.
    pub(super) fn freshen_executed(&mut self, name: &str, now: Timestamp) -> Freshened {
        match self.lookup(name) {
            None => Freshened::Same,
            Some(prepared) if prepared.by_sql => self.fresh_by_sql(name, &prepared, now),
            Some(prepared) => self.freshen(name, &prepared, now),
        }
    }

    /// The same for each EXECUTE of a query string, whose plan is that of what it runs.
    pub(super) fn renew_executed(&mut self, plan: &Plan, now: Timestamp) -> Renewed {
        let (mut renewed, was_open) = (Renewed::Nothing, self.pipeline);
        for statement in plan.statements.iter() {
            let StatementKind::Execute { name } = &statement.kind else {
                continue;
            };
            // What is prepared inside of the client's own pipeline could fail there, and the Query would be skipped with it.
            let fresh = match self.lookup(name) {
                Some(prepared) if was_open => self.fresh_by_sql(name, &prepared, now),
                Some(_) | None => self.freshen_executed(name, now),
            };
            match fresh {
                Freshened::Same => {}
                Freshened::New(_) => renewed = Renewed::Again(false),
                Freshened::Wait => {
                    renewed = Renewed::Again(true);
                    break;
                }
                Freshened::Refuse(refusal) => {
                    renewed = Renewed::Refuse(refusal);
                    break;
                }
            }
        }
        if self.pipeline && !was_open {
            // Something was prepared. The Query waits for it, whatever was found of the others: what fails there, fails in its place.
            self.send_server(message::sync());
            self.owed.push_back(Owed::Sync {
                own: true,
                settles: true,
                behind_copy: false,
            });
            self.pipeline = false;
            renewed = Renewed::Again(true);
        }
        renewed
    }

    /// Preparing again for an EXECUTE has failed: the Query that waits for it ends with that error. Whether it was that.
    pub(super) fn failed_to_renew(&mut self) -> bool {
        let own = |owed: &Owed| match owed {
            Owed::Parse { own, .. } | Owed::Close { own, .. } => *own,
            Owed::Shape { .. } => true,
            Owed::DescribeStatement { .. }
            | Owed::DescribePortal { .. }
            | Owed::Bind { .. }
            | Owed::Execute { .. }
            | Owed::Sync { .. }
            | Owed::Query { .. }
            | Owed::Probe { .. }
            | Owed::Refused { .. } => false,
        };
        let before = self.owed.iter().take_while(|owed| own(owed)).count();
        if !matches!(self.owed.get(before), Some(Owed::Sync { own: true, .. })) || before == 0 {
            return false;
        }
        for owed in self.owed.drain(..before).collect::<Vec<_>>() {
            if let Owed::Parse { name, prepared, .. } = owed {
                self.lost(name, &prepared);
            }
        }
        if let (Some(b'Q'), Some(Owed::Sync { own, .. })) = (self.drop_waiting(), self.owed.front_mut()) {
            *own = false;
        }
        true
    }

    /// A statement that was prepared by SQL can't be prepared again under the hood: it must still mean the same.
    fn fresh_by_sql(&mut self, name: &str, prepared: &Arc<Prepared>, now: Timestamp) -> Freshened {
        if prepared.key.is_none() || prepared.key == self.key_now(now) {
            return Freshened::Same;
        }
        match self.judge_text(&prepared.text.clone(), !prepared.by_sql, now) {
            Judging::Plan(plan, key) if plan.text == prepared.plan.text && same_meters(&plan, &prepared.plan) => {
                let renewed = Arc::new(Prepared {
                    plan,
                    key,
                    ..(**prepared).clone()
                });
                self.statements.insert(name.to_owned(), Arc::clone(&renewed));
                Freshened::New(renewed)
            }
            Judging::Refuse(refusal) => Freshened::Refuse(refusal),
            Judging::Wait => Freshened::Wait,
            Judging::Plan(..) | Judging::InTurn(_) => Freshened::Refuse(stale_prepared(name)),
        }
    }

    /// A plan that was made under another standing, path, policy or catalog is made again; where another text comes of it, the
    /// statement is prepared again under the client's feet.
    pub(super) fn freshen(&mut self, name: &str, prepared: &Arc<Prepared>, now: Timestamp) -> Freshened {
        let meant = prepared.statement().is_none_or(|s| self.means_the_same(&s));
        if meant && !prepared.lost && (prepared.key.is_none() || prepared.key == self.key_now(now)) {
            return Freshened::Same;
        }
        let (plan, key) = match self.judge_text(&prepared.text.clone(), !prepared.by_sql, now) {
            Judging::Plan(plan, key) => (plan, key),
            Judging::Wait => return Freshened::Wait,
            Judging::InTurn(_) => return Freshened::Refuse(stale_prepared(name)),
            Judging::Refuse(refusal) => return Freshened::Refuse(refusal),
        };
        // Of EXECUTE and FETCH the server has described what their names meant when they were prepared.
        let runs_another = !meant || prepared.statement().is_some_and(|s| !s.meanings.is_empty());
        if plan.text == prepared.plan.text && !prepared.lost && !runs_another {
            let renewed = Arc::new(Prepared {
                plan,
                key,
                ..(**prepared).clone()
            });
            self.statements.insert(name.to_owned(), Arc::clone(&renewed));
            return Freshened::New(renewed);
        }
        if prepared.by_sql {
            return Freshened::Refuse(stale_prepared(name));
        }
        if !name.is_empty() && !prepared.lost {
            self.open_pipeline();
            self.send_server(message::close_statement(name));
            self.owed.push_back(Owed::Close {
                own: true,
                statement: Some(name.to_owned()),
                portal: None,
            });
        }
        let text = Arc::clone(&plan.text);
        let renewed = self.prepared(&prepared.text.clone(), prepared.types.clone(), plan, key, false);
        let first = prepared.instead_of.clone().unwrap_or_else(|| Arc::clone(prepared));
        let renewed = Arc::new(Prepared {
            instead_of: (!runs_another).then_some(first),
            ..Arc::unwrap_or_clone(renewed)
        });
        let bytes = message::parse(name, &text, &prepared.types);
        self.send_parse(bytes, name.to_owned(), Arc::clone(&renewed), true);
        Freshened::New(renewed)
    }

    /// Whether a statement that was prepared again under the client's feet has the columns that the client knows. `None`: the server has not
    /// said yet.
    pub(super) fn shows_the_same(&self, prepared: &Prepared) -> Option<bool> {
        let Some(old) = &prepared.instead_of else {
            return Some(true);
        };
        // Where the first was never described, it never ran.
        let Some(known) = self.shapes.get(&old.id) else {
            return Some(true);
        };
        let new = self.shapes.get(&prepared.id)?;
        Some(known.shown(old.statement().as_deref()) == new.shown(prepared.statement().as_deref()))
    }
}

/// In the server's own words for it, by which drivers know to prepare again (plancache.c, RevalidateCachedQuery).
pub(super) fn another_shape() -> Refusal {
    Refusal::unsupported(
        RESULT_TYPE,
        "cached plan must not change result type",
        "prepare it again: the catalog or the policy has changed what it shows",
    )
}

fn stale_prepared(name: &str) -> Refusal {
    Refusal::unsupported(
        "stale-prepared",
        format!("prepared statement \"{name}\" was made under another policy, purpose or search_path"),
        "DEALLOCATE it and prepare it again",
    )
}

fn same_meters(one: &Plan, two: &Plan) -> bool {
    one.statements.len() == two.statements.len()
}

//! What a session has to tell: into the audit log, and to people where they must hear of it.

use serde_json::{Value, json};

use super::connection::{Connection, failure};
use crate::ledger::Reading;
use crate::session::Note;

impl Connection {
    /// Puts a fact into the audit log, and tells people where they must hear of it. False: it could not be kept, the session ends
    /// before what it is about goes out.
    pub(super) fn note(&mut self, note: Note) -> bool {
        let login = self.session.login().to_owned();
        let mut facts = json!({
            "session": self.id,
            "login": login,
            "database": self.session.database(),
            "address": self.visitor.address.to_string(),
        });
        if let (Value::Object(facts), Some(via)) = (&mut facts, self.visitor.via) {
            facts.insert("via".to_owned(), json!(via.to_string()));
        }
        let (event, more) = describe(&note);
        if let (Value::Object(facts), Value::Object(more)) = (&mut facts, more) {
            facts.extend(more);
        }
        self.people(&note, &login, &facts);
        if let Err(e) = self.shared.audit(event, facts) {
            tracing::error!("{e}; the session ends");
            self.to_client.clear();
            self.to_server.clear();
            self.fatal(&failure(
                "58030",
                "audit",
                "the audit log cannot be written, so nothing goes on".to_owned(),
            ));
            return false;
        }
        true
    }

    fn people(&self, note: &Note, login: &str, facts: &Value) {
        let account = Some(login.to_owned());
        match note {
            Note::Crossed { share, reading, .. } => self.shared.raise(
                "threshold",
                account,
                format!("{login} has reached {:.0} % of a limit: {reading}", share * 100.0),
                facts.clone(),
            ),
            Note::Stopped(stopped) => self.shared.raise(
                "stop",
                account,
                format!("{login} has been stopped at {}: {}", stopped.limit, stopped.reading),
                facts.clone(),
            ),
            Note::Tripped { rule, what } => self.shared.raise(
                "incident",
                account,
                format!("{rule}: {what} in a session of {login}"),
                facts.clone(),
            ),
            Note::Refused {
                incident: true,
                rule,
                message,
                ..
            } => {
                self.shared.raise(
                    "incident",
                    account,
                    format!("{rule} in a session of {login}: {message}"),
                    facts.clone(),
                );
            }
            Note::LedgerFailed(why) => self.shared.raise(
                "ledger",
                account,
                format!("rows could not be charged: {why}"),
                facts.clone(),
            ),
            Note::Authenticated
            | Note::Decided { .. }
            | Note::Repeated { .. }
            | Note::Refused { .. }
            | Note::Released { .. }
            | Note::Closed { .. } => {}
        }
    }
}

fn describe(note: &Note) -> (&'static str, Value) {
    match note {
        Note::Authenticated => ("session-opened", json!({})),
        Note::Decided {
            report,
            purpose,
            declared,
        } => (
            "decision",
            json!({
                "action": report.action,
                "fingerprint": report.fingerprint,
                "purpose": purpose,
                "declared": declared.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
                "relations": report.relations,
                "charges": report.charges,
                "witness": report.witness,
            }),
        ),
        Note::Repeated { fingerprint, times } => (
            "decision-repeated",
            json!({ "fingerprint": fingerprint, "times": times }),
        ),
        Note::Refused {
            sqlstate,
            rule,
            message,
            incident,
        } => (
            "refusal",
            json!({ "action": "refuse", "sqlstate": sqlstate, "rule": rule, "message": message, "incident": incident }),
        ),
        Note::Released {
            fingerprint,
            rows,
            new_people,
            estimated,
        } => (
            "release",
            json!({ "fingerprint": fingerprint, "rows": rows, "new_people": new_people, "estimated": estimated }),
        ),
        Note::Crossed {
            limit,
            share,
            reading: r,
        } => (
            "threshold",
            json!({ "limit": limit, "share": share, "reading": reading(r) }),
        ),
        Note::Stopped(stopped) => (
            "stop",
            json!({ "limit": stopped.limit, "reading": reading(&stopped.reading) }),
        ),
        Note::Tripped { rule, what } => ("incident", json!({ "rule": rule, "what": what })),
        Note::LedgerFailed(why) => ("ledger-failed", json!({ "what": why })),
        Note::Closed { reason } => ("session-closed", json!({ "reason": reason })),
    }
}

fn reading(r: &Reading) -> Value {
    json!({ "people": r.people, "score": r.score, "line": r.line, "level": r.level, "window": r.window, "left": r.left })
}

//! FunctionCall: the number of a function is looked up in the catalog, and the call is judged as `SELECT schema.function(…)` would be. What that
//! would have to edit, count or refuse is refused; the message itself goes on as it came, with arguments in either format.

use std::sync::Arc;

use bytes::Buf;
use jiff::Timestamp;

use super::judging::{Judging, aborted};
use super::owed::{Owed, Question};
use super::{Session, Taken};
use crate::guard::{Plan, StatementKind};
use crate::wire::{Frame, Refusal};

/// A function's number, and its schema and name where there is one.
pub(super) type Named = (u32, Option<(String, String)>);

const PROBE: &str = "menshen.function";

impl Session {
    pub(super) fn function_call(&mut self, frame: Frame, now: Timestamp) -> Taken {
        let Some((oid, arguments)) = read(frame.body()) else {
            self.violation("malformed FunctionCall");
            return Taken::Done;
        };
        if self.status == b'E' {
            self.refuse_query(aborted());
            return Taken::Done;
        }
        let Some((_, names)) = self.function.take_if(|(known, _)| *known == oid) else {
            let text = format!(
                "SELECT n.nspname::pg_catalog.text, p.proname::pg_catalog.text FROM pg_catalog.pg_proc p \
                 JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
                 WHERE p.oid OPERATOR(pg_catalog.=) {oid}::pg_catalog.oid"
            );
            self.ask(PROBE, &text, Question::Function(oid));
            self.end_of_questions();
            return Taken::Later(frame);
        };
        let Some((schema, name)) = names.clone() else {
            self.refuse_query(unknown(oid));
            return Taken::Done;
        };
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        // Parameters stand for what this program does not read.
        let values: Vec<String> = (1..=arguments).map(|n| format!("${n}")).collect();
        let text = format!("SELECT {}.{}({})", quoted(&schema), quoted(&name), values.join(", "));
        match self.judge_text(&text, true, now) {
            Judging::Plan(plan, _) => match harmless(&plan) {
                Ok(()) => self.call(frame, &plan, now),
                Err(refusal) => self.refuse_query(refusal),
            },
            Judging::Wait => {
                // The answer stands for the message when it comes again.
                self.function = Some((oid, names));
                return Taken::Later(frame);
            }
            Judging::Refuse(refusal) => self.refuse_query(refusal),
            Judging::InTurn(_) => self.refuse_query(unjudged()),
        }
        Taken::Done
    }

    fn call(&mut self, frame: Frame, plan: &Plan, now: Timestamp) {
        let charge = self.charge_now(now);
        let mut running = Vec::new();
        for statement in plan.statements.iter() {
            self.note_decided(statement, now);
            running.push(self.running_of(Arc::clone(statement), &charge));
        }
        self.close_late_portal();
        self.owed.push_back(Owed::Query {
            call: true,
            running,
            at: 0,
            stopped: false,
            prepared: Vec::new(),
        });
        self.send_server(frame.bytes);
    }
}

/// Whether a call may go as it is: nothing in its answer is edited or counted.
fn harmless(plan: &Plan) -> Result<(), Refusal> {
    match &plan.statements[..] {
        [one]
            if !plan.edited
                && one.meter.is_empty()
                && one.report.relations.is_empty()
                && one.setting_parameters.is_empty()
                && matches!(one.kind, StatementKind::Query | StatementKind::Set) =>
        {
            Ok(())
        }
        _ => Err(unjudged()),
    }
}

fn unjudged() -> Refusal {
    Refusal::unsupported(
        "function-call",
        "Menshen does not pass a function-call message to a function whose answer it would have to edit or count",
        "call the function in a SELECT",
    )
}

/// In the server's own words.
fn unknown(oid: u32) -> Refusal {
    Refusal {
        sqlstate: "42883",
        rule: "function-unknown",
        message: format!("function with OID {oid} does not exist"),
        hint: "".into(),
        position: None,
        incident: false,
    }
}

/// The function's number and how many arguments there are, where the body is a FunctionCall's: number, formats, arguments with their lengths,
/// format of the result.
fn read(mut body: &[u8]) -> Option<(u32, usize)> {
    let oid = body.try_get_u32().ok()?;
    let formats = body.try_get_i16().ok()?;
    for _ in 0..usize::try_from(formats).ok()? {
        body.try_get_i16().ok()?;
    }
    let arguments = usize::try_from(body.try_get_i16().ok()?).ok()?;
    for _ in 0..arguments {
        let length = body.try_get_i32().ok()?;
        if length != -1 {
            body = body.get(usize::try_from(length).ok()?..)?;
        }
    }
    body.try_get_i16().ok()?;
    body.is_empty().then_some((oid, arguments))
}

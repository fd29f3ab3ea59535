//! Which functions, operators and types a statement calls or uses, whichever way the grammar has for it.

use super::Subject;
use super::expression;
use super::functions::{Call, Verdict};
use super::judge::{self, SettingRow};
use super::scope::Lookup;
use super::tree::Tree;
use crate::catalog::in_reach;
use crate::wire::Refusal;

impl Subject<'_> {
    /// Judges every function and operator named in the statement.
    pub(super) fn functions(&self) -> Result<(), Refusal> {
        *self.judge.setting_row.borrow_mut() = self.setting_row();
        let mut result = Ok(());
        self.tree.walk(&mut |n| {
            if result.is_err() {
                return false;
            }
            match n.kind() {
                "FuncCall" => {
                    if let Some(name) = n.names("funcname") {
                        result = self.judge.function(&name, n);
                    }
                }
                kind if kind.starts_with("Json") || kind == "MergeSupportFunc" => {
                    result = expression::NEWER_FORMS.iter().try_for_each(|name| self.form(name));
                }
                // `value.function` calls a function of one argument.
                "ColumnRef" => {
                    let fields = n.names("fields").unwrap_or_default();
                    result = fields
                        .iter()
                        .zip(fields.iter().skip(1))
                        .try_for_each(|(of, name)| self.attribute(Some(of), name));
                }
                "AIndirection" => {
                    result = n
                        .list("indirection")
                        .iter()
                        .try_for_each(|part| self.attribute(None, part.text("sval")));
                }
                "TypeName" => {
                    if let Some((schema, name)) = n.names("names").as_deref().and_then(judge::split) {
                        result = self.judge.cast(schema, name);
                    }
                }
                "AExpr" | "SubLink" | "SortBy" | "CaseExpr" | "JoinExpr" => {
                    result = operators(n).iter().try_for_each(|name| self.operator(name));
                }
                _ => {}
            }
            true
        });
        result?;
        self.judge.setting_parameters_are_text(self.tree)
    }

    /// Where the statement reads `pg_settings` and nothing else: what its column `name` is. pg_settings does not list the settings that hold
    /// the token's keys.
    fn setting_row(&self) -> SettingRow {
        let mut only = true;
        let mut relation = None;
        self.tree.walk(&mut |n| {
            match n.kind() {
                "RangeVar" if relation.is_none() => relation = Some(n),
                "RangeVar" | "RangeSubselect" | "RangeFunction" | "RangeTableFunc" | "JsonTable" | "WithClause" => {
                    only = false
                }
                _ => {}
            }
            true
        });
        let Some(relation) = relation.filter(|r| only && r.field("alias").list("colnames").is_empty()) else {
            return SettingRow::None;
        };
        let schema = relation.text("schemaname");
        let written = (!schema.is_empty()).then_some(schema);
        let catalog = &self.judge.ground.catalog;
        let found = catalog.resolve(written, relation.text("relname"), self.judge.path());
        if !found.is_some_and(|r| r.name.schema == "pg_catalog" && r.name.name == "pg_settings") {
            return SettingRow::None;
        }
        let condition = self.tree.field("where_clause");
        let value = condition.field("rexpr");
        let equals = condition.kind() == "AExpr"
            && condition.names("name").is_some_and(|o| o == ["="])
            && condition.field("lexpr").names("fields").is_some_and(|f| f == ["name"])
            && value.kind() == "AConst";
        if equals {
            SettingRow::One(value.field("val").text("sval").to_owned())
        } else {
            SettingRow::Any
        }
    }

    /// A form of the grammar that an older server reads as a call: a user function of that name is judged.
    fn form(&self, name: &str) -> Result<(), Refusal> {
        match self.judge.ground.reach.judge_call(None, name, self.judge.path()) {
            Call::User(Verdict::Refused { reason, .. }) => Err(Refusal::denied(
                "function-opaque",
                format!("permission denied for function \"{name}\": {reason}"),
                "query the relations directly, or ask the owners of the policy to trust the function",
            )),
            Call::User(Verdict::Safe) | Call::BuiltIn(_) | Call::Unknown => Ok(()),
        }
    }

    /// A name behind a dot may call a function of one argument, where it is no column of what stands before the dot (`of`).
    fn attribute(&self, of: Option<&str>, name: &str) -> Result<(), Refusal> {
        let ground = self.judge.ground;
        let denied = match ground.reach.judge_call(None, name, self.judge.path()) {
            Call::BuiltIn(entry) => entry.map(|e| e.reason.clone()),
            Call::User(Verdict::Refused { reason, .. }) => Some(reason),
            Call::User(Verdict::Safe) => {
                *self.judge.user_function.borrow_mut() = true;
                None
            }
            Call::Unknown => None,
        };
        // `value.type` is a cast.
        let cast = self.judge.cast(None, name);
        if denied.is_none() && cast.is_ok() || of.is_some_and(|of| self.has_column(of, name)) {
            return Ok(());
        }
        cast?;
        let Some(reason) = denied else { return Ok(()) };
        Err(Refusal::denied(
            "function-denied",
            format!("permission denied for function \"{name}\": it {reason}"),
            "call functions that work on their arguments alone",
        ))
    }

    /// Whether `alias.column` can only mean a column: everything in the statement that has that alias is known to have the column.
    fn has_column(&self, alias: &str, column: &str) -> bool {
        let mut named: Vec<bool> = Vec::new();
        let mut ctes: Vec<&Tree> = Vec::new();
        self.tree.walk(&mut |n| {
            if n.kind() == "CommonTableExpr" {
                ctes.push(n);
            }
            true
        });
        self.tree.walk(&mut |n| {
            let own = n.field("alias");
            let renamed = own.names("colnames").unwrap_or_default().iter().any(|c| c == column);
            match n.kind() {
                "RangeVar" => {
                    let shown = own.text("aliasname");
                    let name = if shown.is_empty() { n.text("relname") } else { shown };
                    // In INSERT, MERGE and RETURNING the target has these names too.
                    let target = matches!(alias, "excluded" | "old" | "new") && named.is_empty();
                    if alias == name || alias == n.text("schemaname") || target {
                        let of =
                            |cte: &&Tree| n.text("schemaname").is_empty() && cte.text("ctename") == n.text("relname");
                        let mut of = ctes.iter().copied().filter(of).peekable();
                        let has = if of.peek().is_some() {
                            of.all(|cte| cte_gives(cte, column))
                        } else {
                            let schema = n.text("schemaname");
                            let written = (!schema.is_empty()).then_some(schema);
                            let catalog = &self.judge.ground.catalog;
                            let found = catalog.resolve(written, n.text("relname"), self.judge.path());
                            found.is_some_and(|r| r.column(column).is_some())
                        };
                        named.push(has || renamed);
                    }
                }
                "RangeSubselect" if own.text("aliasname") == alias => {
                    named.push(renamed || gives(n.field("subquery"), column));
                }
                "RangeFunction" | "RangeTableFunc" | "JsonTable" if own.text("aliasname") == alias => {
                    let defined = ["coldeflist", "columns"].iter().flat_map(|f| n.list(f));
                    let mut defined = defined.map(|c| [c.text("colname"), c.text("name")]);
                    named.push(renamed || defined.any(|names| names.contains(&column)));
                }
                "JoinExpr"
                    if own.text("aliasname") == alias || n.field("join_using_alias").text("aliasname") == alias =>
                {
                    named.push(renamed);
                }
                _ => {}
            }
            true
        });
        !named.is_empty() && named.iter().all(|has| *has)
    }

    fn operator(&self, name: &[String]) -> Result<(), Refusal> {
        let Some((written, name)) = judge::split(name) else {
            return Ok(());
        };
        let (ground, path) = (self.judge.ground, self.judge.path());
        let change = ground.reach.changers().operator(written, name, path);
        self.judge.changed_by(change, || format!("operator {name}"))?;
        let operators = ground.catalog.operators.get(name).into_iter().flatten();
        for operator in operators.filter(|o| in_reach(&o.schema, written, path)) {
            let (schema, function) = &operator.function;
            if let Call::User(Verdict::Refused { reason, .. }) = ground.reach.judge_call(Some(schema), function, path) {
                return Err(Refusal::denied(
                    "operator-opaque",
                    format!("permission denied for operator {name}: its function \"{schema}.{function}\" {reason}"),
                    "write OPERATOR(pg_catalog.…) or use another expression",
                ));
            }
        }
        Ok(())
    }
}

/// Names of the operators that a node applies: as written, and those that the grammar implies.
pub(super) fn operators(node: &Tree) -> Vec<Vec<String>> {
    let mut all = implied(node);
    all.extend(
        ["name", "oper_name", "use_op"]
            .iter()
            .filter_map(|field| node.names(field)),
    );
    all
}

/// Operators that the grammar implies where the text names none.
pub(super) fn implied(node: &Tree) -> Vec<Vec<String>> {
    let names: &[&str] = match node.kind() {
        "CaseExpr" if !node.field("arg").is_null() => &["="],
        "JoinExpr" if node.flag("is_natural") || !node.list("using_clause").is_empty() => &["="],
        "SubLink" if !node.field("testexpr").is_null() && node.list("oper_name").is_empty() => &["="],
        "AExpr"
            if node
                .names("name")
                .is_some_and(|n| n.iter().any(|n| n.contains("BETWEEN"))) =>
        {
            &[">=", "<=", "<", ">"]
        }
        _ => &[],
    };
    names.iter().map(|name| vec![(*name).to_owned()]).collect()
}

/// Whether a query has an output column of that name, by the names that are written.
fn gives(query: &Tree, column: &str) -> bool {
    if !query.field("larg").is_null() {
        return gives(query.field("larg"), column);
    }
    let returning = query.field("returning_clause");
    let targets = query.list("target_list").iter().chain(returning.list("exprs"));
    targets.into_iter().any(|target| {
        let name = target.text("name");
        let fields = target.field("val").names("fields").unwrap_or_default();
        if name.is_empty() {
            fields.last().is_some_and(|f| f == column)
        } else {
            name == column
        }
    })
}

fn cte_gives(cte: &Tree, column: &str) -> bool {
    let renamed = cte.names("aliascolnames").unwrap_or_default();
    renamed.iter().any(|c| c == column) || gives(cte.field("ctequery"), column)
}

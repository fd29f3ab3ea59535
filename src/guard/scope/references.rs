//! Expressions: which column every reference means, and what the value derives from.

use super::*;
use crate::policy::Compare;

impl Walk<'_> {
    /// Walks an expression whose value does not reach the output.
    pub(super) fn expression(&mut self, t: &Tree, level: &Level, env: Env<'_>) -> Result<(), Stop> {
        if !t.is_null() {
            self.predicates += 1;
            let flow = self.flow_any(t, level, env);
            self.predicates -= 1;
            flow?;
        }
        Ok(())
    }

    /// As `expression`, for a condition: people whose counted values it compares are in the rows that it leaves.
    pub(super) fn condition(&mut self, t: &Tree, level: &Level, env: Env<'_>) -> Result<(), Stop> {
        if !t.is_null() {
            self.predicates += 1;
            let flow = self.flow_any(t, level, env);
            self.predicates -= 1;
            let taint = flow?.taint;
            self.decided_by(&taint);
        }
        Ok(())
    }

    /// Which rows there are depends on these columns.
    pub(super) fn decided_by(&mut self, taint: &Taint) {
        if self.look.metered() {
            let counted = taint.iter().copied().filter(|a| !self.counts(*a).is_empty());
            let counted: Vec<Atom> = counted.collect();
            self.conditions.extend(counted);
        }
    }

    /// What the value of an expression derives from.
    pub(super) fn flow(&mut self, t: &Tree, level: &Level, env: Env<'_>) -> Result<Flow, Stop> {
        self.flow_any(t, level, env)
    }

    pub(super) fn flow_any(&mut self, t: &Tree, level: &Level, env: Env<'_>) -> Result<Flow, Stop> {
        match t {
            Tree::Null | Tree::Flag(_) | Tree::Int(_) | Tree::Text(_) => return Ok(Flow::default()),
            Tree::List(items) => {
                let mut all = Flow::default();
                for item in items {
                    all.add(self.flow_any(item, level, env)?);
                }
                return Ok(all);
            }
            Tree::Node(..) => {}
        }
        self.depth += 1;
        if self.depth > 4 * DEPTH_MAX {
            return Err(unsupported("nesting", "expressions nested more than 800 deep").into());
        }
        let flow = self.flow_node(t, level, env);
        self.depth -= 1;
        flow
    }

    pub(super) fn flow_node(&mut self, t: &Tree, level: &Level, env: Env<'_>) -> Result<Flow, Stop> {
        match t.kind() {
            "ColumnRef" => self.column(t, level, env),
            "SubLink" => self.sublink(t, level, env),
            "SelectStmt" => {
                // A query inside an SQL/JSON constructor.
                let outer = Outer {
                    level,
                    parent: env.outer,
                };
                let output = self.select(
                    t,
                    Env {
                        ctes: env.ctes,
                        outer: Some(&outer),
                    },
                    Carry::No,
                    false,
                )?;
                if self.look.metered() && self.predicates == 0 && !output.loose.is_empty() {
                    return Err(unmeterable().into());
                }
                Ok(Flow {
                    loose: output.loose.packed(),
                    ..Flow::of_query(&output)
                })
            }
            "FuncCall" => {
                let name = t.names("funcname").ok_or_else(|| unknown_node("function name"))?;
                self.look.function(&name, t)?;
                let met = self.met;
                let mut flow = Flow::default();
                // `lag`'s and `lead`'s default comes from the row itself.
                let mut own_row = Taint::new();
                for (index, arg) in t.list("args").iter().enumerate() {
                    let given = self.flow_any(arg, level, env)?;
                    if index > 0 || arg.kind() == "NamedArgExpr" {
                        own_row.extend(given.direct.iter().copied());
                    }
                    flow.add(given);
                }
                let ordered = self.flow_any(t.field("agg_order"), level, env)?;
                if t.flag("agg_within_group") {
                    // An ordered-set aggregate answers with one of the values it orders.
                    flow.add(ordered);
                }
                if self.look.keeps(Given::Function(&name)) {
                    self.kept(&flow, &format!("function \"{}\"", name.join(".")))?;
                }
                let outer = self.met.0 == met.0 && self.met.1 > met.1;
                for field in ["agg_filter", "over"] {
                    self.expression(t.field(field), level, env)?;
                }
                if name.last().is_some_and(|n| only_counts(n)) {
                    return Ok(Flow::default());
                }
                let mut flow = flow.derived();
                if !t.field("over").is_null() {
                    let own = name
                        .last()
                        .is_some_and(|n| self.look.catalog().functions.contains_key(n));
                    self.windows
                        .push(WindowCall::of(t, &name, own, flow.taint.clone(), flow.loose.clone()));
                    flow.direct = match name.last().map(String::as_str) {
                        Some("lag" | "lead") => own_row,
                        _ => Taint::new(),
                    };
                    flow.loose = Loose::default();
                } else if outer && is_aggregate_call(t, self.look.catalog()) && self.shows(&flow.taint) {
                    // An aggregate of columns of a level around it belongs to that level, and groups it.
                    return Err(unmeterable().into());
                }
                Ok(flow)
            }
            "AExpr" => {
                let compares = is_comparison(t);
                self.predicates += usize::from(compares);
                let flow = self.children(t, level, env);
                self.predicates -= usize::from(compares);
                let flow = flow?;
                let operator = t.names("name").unwrap_or_default();
                if self.look.keeps(Given::Operator(&operator)) {
                    self.kept(&flow, &format!("operator {}", operator.join(".")))?;
                }
                Ok(flow)
            }
            "TypeCast" => {
                let flow = self.children(t, level, env)?;
                let names = t.field("type_name").names("names").unwrap_or_default();
                if self.look.keeps(Given::Type(&names)) {
                    self.kept(&flow, &format!("the checks of type \"{}\"", names.join(".")))?;
                }
                Ok(flow)
            }
            "JsonArrayAgg" | "JsonObjectAgg" => {
                let met = self.met;
                let flow = self.children(t, level, env)?;
                if self.met.0 == met.0 && self.met.1 > met.1 && self.shows(&flow.taint) {
                    return Err(unmeterable().into());
                }
                Ok(flow)
            }
            "NullTest" => {
                self.expression(t.field("arg"), level, env)?;
                Ok(Flow::default())
            }
            // The row a cursor stands on: what it showed was filtered when it was declared.
            "CurrentOfExpr" => Ok(Flow::default()),
            "MultiAssignRef" => Err(unknown_node("MultiAssignRef outside of SET").into()),
            "AIndirection" => {
                let flow = self.children(t, level, env)?;
                for part in t.list("indirection") {
                    self.noted(part.text("sval"), &flow)?;
                }
                Ok(flow)
            }
            // JSON_TABLE's and XMLTABLE's columns stand only in FROM.
            "JsonTableColumn" | "RangeTableFuncCol" | "JsonTablePath" => self.children(t, level, env),
            kind if expression::is_known(kind) => self.children(t, level, env),
            kind => Err(unknown_node(kind).into()),
        }
    }

    /// Clear protected values are given to what keeps them: whoever reads them there is not counted.
    fn kept(&self, flow: &Flow, by: &str) -> Result<(), Stop> {
        let clear = flow.taint.iter().find(|atom| {
            let treatment = self.treatment(**atom);
            treatment.is_some_and(|t| t.kind == Kind::Clear && !t.derive)
        });
        let Some(atom) = clear else { return Ok(()) };
        Err(Refusal::denied(
            "laundering",
            format!(
                "permission denied to give clear values of \"{}\" to {by}, which keeps them where the policy does not protect them",
                self.column_name(*atom)
            ),
            "give it masked or unclassified columns only, or ask the owners of the policy for `derive`",
        )
        .into())
    }

    /// `value.function`: the function may keep what it is given.
    fn noted(&self, name: &str, flow: &Flow) -> Result<(), Stop> {
        let name = [name.to_owned()];
        if self.look.keeps(Given::Function(&name)) {
            self.kept(flow, &format!("function \"{}\"", name.join(".")))?;
        }
        Ok(())
    }

    pub(super) fn children(&mut self, t: &Tree, level: &Level, env: Env<'_>) -> Result<Flow, Stop> {
        let mut flow = Flow::default();
        for child in t.children() {
            flow.add(self.flow_any(child, level, env)?);
        }
        Ok(flow.derived())
    }

    pub(super) fn sublink(&mut self, t: &Tree, level: &Level, env: Env<'_>) -> Result<Flow, Stop> {
        let test = self.flow_any(t.field("testexpr"), level, env)?;
        let outer = Outer {
            level,
            parent: env.outer,
        };
        let inner = Env {
            ctes: env.ctes,
            outer: Some(&outer),
        };
        let met = self.met.1;
        let output = self.select(t.field("subselect"), inner, Carry::No, false)?;
        if !output.rows.is_empty() {
            self.asked.push(Asked {
                tree: t.clone(),
                rows: output.rows.clone(),
                correlated: self.met.1 > met,
            });
        }
        // PostgreSQL's SubLinkType: 1 EXISTS, 2 ALL, 3 ANY, 4 row comparison, 5 expression, 6 multi-assignment, 7 ARRAY.
        Ok(match t.int("sub_link_type") {
            1 => Flow::default(),
            2..=4 => test.derived(),
            5 | 6 => self.inside_of(t, Flow::of_query(&output)),
            7 => {
                let flow = Flow {
                    loose: output.loose.packed(),
                    ..Flow::of_query(&output)
                };
                self.inside_of(t, flow)
            }
            _ => return Err(unknown_node("sub-query kind").into()),
        })
    }

    /// Keeps the people of a sub-query for the select list that it stands in.
    fn inside_of(&mut self, t: &Tree, flow: Flow) -> Flow {
        if let Some(at) = t.location() {
            self.inside.insert((self.frame, at), flow.loose.clone());
        }
        flow
    }

    /// Whether values of these columns count.
    pub(super) fn shows(&self, taint: &Taint) -> bool {
        self.look.metered() && taint.iter().any(|a| !self.counts(*a).is_empty())
    }

    /// Refuses where one of these columns is denied.
    pub(super) fn touch(&self, taint: &Taint) -> Result<(), Stop> {
        for atom in taint {
            let Some(treatment) = self.treatment(*atom) else {
                continue;
            };
            if self.predicates > 0 && treatment.compare == Compare::Deny && matches!(treatment.kind, Kind::Mask(_)) {
                let name = self.scans.get(atom.scan).and_then(|s| s.protected.column(atom.attnum));
                return Err(Refusal::denied(
                    "compare-denied",
                    format!(
                        "permission denied to compare, order or group by column \"{}\": its class says compare = \"deny\"",
                        name.map_or("", |c| c.column.name.as_str())
                    ),
                    "name it in the select list only",
                )
                .into());
            }
            if treatment.kind == Kind::Deny {
                let scan = self.scans.get(atom.scan);
                let column = scan
                    .and_then(|s| s.protected.column(atom.attnum))
                    .map_or_else(String::new, |c| c.column.name.clone());
                let relation = scan.map_or_else(String::new, |s| dotted(&s.protected.name));
                return Err(Refusal::denied(
                    "column-denied",
                    format!(
                        "permission denied for column \"{column}\" of relation \"{relation}\" ({})",
                        treatment.rule
                    ),
                    "name only the columns that you need, or ask the owners of the policy for a grant",
                )
                .into());
            }
        }
        Ok(())
    }

    pub(super) fn column(&mut self, t: &Tree, level: &Level, env: Env<'_>) -> Result<Flow, Stop> {
        let fields = t.names("fields").ok_or_else(|| unknown_node("column reference"))?;
        let mut levels: Vec<&Level> = vec![level];
        let mut outer = env.outer;
        while let Some(o) = outer {
            levels.push(o.level);
            outer = o.parent;
        }
        let parts: Vec<&str> = fields.iter().map(String::as_str).collect();
        match parts.as_slice() {
            [name] => self.bare(t, name, &levels),
            [alias, column] => self.qualified(t, None, alias, column, &levels),
            [schema, table, column] => {
                self.shorten(t, schema, table, 1, &levels)?;
                self.qualified(t, Some(schema), table, column, &levels)
            }
            [_, schema, table, column] => {
                self.shorten(t, schema, table, 2, &levels)?;
                self.qualified(t, Some(schema), table, column, &levels)
            }
            _ => Err(unknown_node("column reference").into()),
        }
    }

    pub(super) fn bare(&mut self, t: &Tree, name: &str, levels: &[&Level]) -> Result<Flow, Stop> {
        let mut guess = Taint::new();
        for (depth, level) in levels.iter().enumerate() {
            let hits: Vec<&OutColumn> = level.star().filter(|c| c.name.as_deref() == Some(name)).collect();
            if !hits.is_empty() {
                let mut taint: Taint = hits.iter().flat_map(|c| c.taint.iter().copied()).collect();
                self.touch(&taint)?;
                taint.extend(guess);
                let identity = if let [one] = hits.as_slice() {
                    one.identity
                } else {
                    None
                };
                self.of_target(t, &hits, None, levels, depth)?;
                self.meet(depth);
                return Ok(Flow::of_column(taint, identity));
            }
            if let Some(named) = level.named().find(|n| n.alias == name) {
                self.meet(depth);
                self.row_of_target(t, named, levels, depth, true)?;
                return self.whole_row(named);
            }
            if expression::is_system_column(name) {
                let scans: Vec<ScanId> = level.named().filter_map(|n| n.scan).collect();
                if let [scan] = scans.as_slice() {
                    self.system(*scan, name);
                }
                if level.named().next().is_some() {
                    return Ok(Flow::default());
                }
            }
            guess.extend(
                level
                    .star()
                    .filter(|c| c.name.is_none())
                    .flat_map(|c| c.taint.iter().copied()),
            );
        }
        // Output names in ORDER BY and GROUP BY end here too; otherwise it is whatever is in reach.
        if !self.labels.iter().flatten().any(|l| l == name) {
            self.must_be_known(name, levels)?;
            self.guessed = true;
        }
        for level in levels {
            guess.extend(level.star().flat_map(|c| c.taint.iter().copied()));
        }
        Ok(Flow::of_column(guess, None))
    }

    pub(super) fn qualified(
        &mut self,
        t: &Tree,
        schema: Option<&str>,
        alias: &str,
        column: &str,
        levels: &[&Level],
    ) -> Result<Flow, Stop> {
        for (depth, level) in levels.iter().enumerate() {
            let Some(named) = level
                .named()
                .find(|n| n.alias == alias && (schema.is_none() || n.schema.as_deref() == schema))
            else {
                continue;
            };
            self.meet(depth);
            if column == "*" {
                self.row_of_target(t, named, levels, depth, false)?;
                return self.whole_row(named);
            }
            let hits: Vec<&OutColumn> = named
                .columns
                .iter()
                .filter(|c| c.name.as_deref() == Some(column))
                .collect();
            if !hits.is_empty() {
                let taint: Taint = hits.iter().flat_map(|c| c.taint.iter().copied()).collect();
                self.touch(&taint)?;
                let identity = if let [one] = hits.as_slice() {
                    one.identity
                } else {
                    None
                };
                self.of_target(t, &hits, Some(alias), levels, depth)?;
                return Ok(Flow::of_column(taint, identity));
            }
            if expression::is_system_column(column) {
                if let Some(scan) = named.scan {
                    self.system(scan, column);
                }
                return Ok(Flow::default());
            }
            // `alias.function` is function notation on the whole row.
            self.guessed |= named.scan.is_some() && !self.look.catalog().functions.contains_key(column);
            self.row_of_target(t, named, levels, depth, false)?;
            let flow = self.whole_row(named)?;
            self.noted(column, &flow)?;
            return Ok(flow);
        }
        self.must_resolve(alias, levels)?;
        let mut taint = Taint::new();
        for level in levels {
            taint.extend(level.star().flat_map(|c| c.taint.iter().copied()));
        }
        Ok(Flow::of_column(taint, None))
    }

    fn meet(&mut self, depth: usize) {
        if depth == 0 {
            self.met.0 += 1;
        } else {
            self.met.1 += 1;
        }
    }

    pub(super) fn system(&mut self, scan: ScanId, name: &str) {
        if let Some(scan) = self.scans.get_mut(scan) {
            scan.system.insert(name.to_owned());
        }
    }

    pub(super) fn whole_row(&mut self, named: &Named) -> Result<Flow, Stop> {
        if named.carries {
            return Err(self.no_thread(&named.threads.clone()));
        }
        let taint = union(&named.columns);
        self.touch(&taint)?;
        if let Some(scan) = named.scan.and_then(|s| self.scans.get(s))
            && scan.replaced
            && !scan.system.is_empty()
        {
            return Err(unsupported("system-column-with-row", "a system column beside a whole-row reference").into());
        }
        Ok(Flow::of_column(taint, None))
    }

    /// `schema.table.column` must lose its schema where the table becomes a sub-select.
    pub(super) fn shorten(
        &mut self,
        t: &Tree,
        schema: &str,
        table: &str,
        fields: usize,
        levels: &[&Level],
    ) -> Result<(), Stop> {
        for level in levels {
            let Some(named) = level
                .named()
                .find(|n| n.alias == table && n.schema.as_deref() == Some(schema))
            else {
                continue;
            };
            let replaced = named.scan.and_then(|s| self.scans.get(s)).is_some_and(|s| s.replaced);
            if !replaced {
                return Ok(());
            }
            let place = t.location().and_then(|start| {
                let index = self.parsed.token_at(start)?;
                let end = self.parsed.token(index + 2 * fields)?.start;
                Some((start, end))
            });
            let Some((start, end)) = place else {
                return Err(unsupported(
                    "column-place",
                    "a column reference whose place in the text can't be found",
                )
                .into());
            };
            let entry = Shorten {
                start,
                end,
                fields,
                frame: self.frame,
            };
            if !self.shorten.contains(&entry) {
                self.shorten.push(entry);
            }
            return Ok(());
        }
        Ok(())
    }

    pub(super) fn expand_star(
        &mut self,
        value: &Tree,
        qualifier: &[String],
        level: &Level,
        env: Env<'_>,
    ) -> Result<(Vec<OutColumn>, Loose), Stop> {
        if value.kind() == "AIndirection" {
            let flow = self.flow_any(value.field("arg"), level, env)?;
            let column = OutColumn {
                name: None,
                taint: flow.taint,
                identity: None,
            };
            return Ok((vec![column], flow.loose));
        }
        let columns: Vec<OutColumn> = match qualifier {
            [] => level.star().cloned().collect(),
            [.., alias] => {
                if let [.., schema, table] = qualifier {
                    self.shorten(value, schema, table, qualifier.len() - 1, &[level])?;
                }
                match level.named().find(|n| n.alias == *alias) {
                    Some(named) => named.columns.clone(),
                    None => {
                        // A row of an outer level: `(SELECT c.*)`.
                        let mut levels = vec![level];
                        let mut outer = env.outer;
                        while let Some(o) = outer {
                            levels.push(o.level);
                            outer = o.parent;
                        }
                        let flow = self.qualified(value, None, alias, "*", &levels)?;
                        vec![OutColumn {
                            name: None,
                            taint: flow.taint,
                            identity: None,
                        }]
                    }
                }
            }
        };
        self.touch(&union(&columns))?;
        Ok((columns, Loose::default()))
    }
}

/// Whether an operator expression compares: its answer tells of the value without showing it.
fn is_comparison(t: &Tree) -> bool {
    const OPERATORS: [&str; 18] = [
        "!~", "!~*", "!~~", "!~~*", "<", "<=", "<>", "=", ">", ">=", "@>", "<@", "~", "~*", "~<=~", "~<~", "~~", "~~*",
    ];
    // 1: an operator; others are ANY, ALL, DISTINCT, NULLIF, IN, LIKE, SIMILAR, BETWEEN …
    let name = t.names("name").and_then(|mut n| n.pop()).unwrap_or_default();
    t.int("kind") != 1 || OPERATORS.contains(&name.as_str())
}

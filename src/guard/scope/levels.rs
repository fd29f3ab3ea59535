//! Query levels: WITH, the body of a SELECT, what its `*` shows.

use super::*;

/// Stands for the recursive CTE itself in what the columns of its second part derive from.
const ITSELF: ScanId = usize::MAX;

/// What a recursive CTE's rows take from rows of the round before.
enum Moved {
    /// Nothing that is anybody's.
    Nothing,
    /// Values as they are, in so many columns.
    Whole(u64),
    /// Values made of several.
    Gathered,
}

fn moved(first: &[OutColumn], second: &[OutColumn]) -> Moved {
    let regular = first.iter().chain(second).all(|c| c.name.is_some());
    let own = |c: &OutColumn, of: &dyn Fn(usize) -> bool| {
        c.taint
            .iter()
            .any(|a| a.scan == ITSELF && usize::try_from(a.attnum).is_ok_and(of))
    };
    // Columns that come to hold people's values.
    let mut held: Vec<bool> = first.iter().map(|c| !c.taint.is_empty()).collect();
    loop {
        let mut more = false;
        for (index, column) in second.iter().enumerate() {
            let holds =
                column.taint.iter().any(|a| a.scan != ITSELF) || own(column, &|n| held.get(n).copied().unwrap_or(true));
            if let Some(place) = held.get_mut(index)
                && holds
                && !*place
            {
                *place = true;
                more = true;
            }
        }
        if !more {
            break;
        }
    }
    let takes: Vec<&OutColumn> = second
        .iter()
        .filter(|c| own(c, &|n| held.get(n).copied().unwrap_or(true)))
        .collect();
    if takes.is_empty() {
        Moved::Nothing
    } else if regular && takes.iter().all(|c| c.identity.is_some_and(|i| i.scan == ITSELF)) {
        Moved::Whole(held.iter().filter(|h| **h).count() as u64)
    } else {
        Moved::Gathered
    }
}

impl Walk<'_> {
    /// A query, or a data modification, which stands at the top or in WITH.
    pub(super) fn statement(&mut self, t: &Tree, env: Env<'_>, carry: Carry, top: bool) -> Result<Output, Stop> {
        match t.kind() {
            "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" => self.modify(t, env, carry),
            _ => self.select(t, env, carry, top),
        }
    }

    pub(super) fn select(&mut self, t: &Tree, env: Env<'_>, carry: Carry, top: bool) -> Result<Output, Stop> {
        if t.kind() != "SelectStmt" {
            return Err(unknown_node(t.kind()).into());
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(unsupported("nesting", "queries nested more than 200 deep").into());
        }
        let result = self.select_with(t, env, carry, top);
        self.depth -= 1;
        result
    }

    pub(super) fn select_with(&mut self, t: &Tree, env: Env<'_>, carry: Carry, top: bool) -> Result<Output, Stop> {
        self.with(t, env, |walk, env| walk.select_body(t, env, carry, top))
    }

    /// Walks the WITH clause of a statement, then its body in the scope of the CTEs.
    pub(super) fn with<T>(
        &mut self,
        t: &Tree,
        env: Env<'_>,
        body: impl FnOnce(&mut Self, Env<'_>) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        let with = t.field("with_clause");
        if with.is_null() {
            return body(self, env);
        }
        let mut scope = CteScope {
            ctes: Vec::new(),
            parent: env.ctes,
        };
        let recursive = with.flag("recursive");
        for cte in with.list("ctes") {
            let made = self.cte(cte, &scope, env, recursive)?;
            scope.ctes.push(Rc::new(made));
        }
        let env = Env {
            ctes: Some(&scope),
            outer: env.outer,
        };
        body(self, env)
    }

    pub(super) fn cte(&mut self, t: &Tree, scope: &CteScope<'_>, env: Env<'_>, recursive: bool) -> Result<Cte, Stop> {
        let thread = self.thread();
        let name = t.text("ctename").to_owned();
        let query = t.field("ctequery");
        let aliases = t.names("aliascolnames").unwrap_or_default();
        let here = Env {
            ctes: Some(scope),
            outer: env.outer,
        };
        let odd = !t.field("search_clause").is_null() || !t.field("cycle_clause").is_null();
        let mut output = if recursive && self.names_relation(query, &name) {
            self.recursive(query, &name, &aliases, here, thread)?
        } else {
            let carry = if self.unthreaded.contains(&thread) {
                Carry::No
            } else {
                Carry::Yes
            };
            let mut output = self.statement(query, here, carry, false)?;
            list_fits(&output.columns, &aliases, &format!("WITH query \"{name}\""))?;
            output.columns = rename(output.columns, &aliases);
            output
        };
        if odd {
            // SEARCH and CYCLE gather the rows of a path in one value.
            if self.reads_path(t, &name) {
                output.loose = output.loose.packed();
            }
            output.columns.push(OutColumn {
                name: None,
                taint: union(&output.columns),
                identity: None,
            });
        }
        Ok(Cte {
            name,
            columns: output.columns,
            hidden: output.hidden,
            loose: output.loose,
            rows: output.rows,
            restricted: output.restricted,
            thread,
        })
    }

    /// Whether the columns in which SEARCH and CYCLE gather a path could be read anywhere in the text: by name, by `*`, as part of a row,
    /// or under another name.
    fn reads_path(&self, cte: &Tree, name: &str) -> bool {
        let gathered = [
            cte.field("search_clause").text("search_seq_column"),
            cte.field("cycle_clause").text("cycle_path_column"),
        ];
        let mut aliases = vec![name.to_owned()];
        let mut found = false;
        for statement in &self.parsed.statements {
            statement.walk(&mut |n| {
                if n.kind() == "RangeVar" && n.text("relname") == name {
                    let alias = n.field("alias");
                    found |= !alias.list("colnames").is_empty();
                    aliases.push(alias.text("aliasname").to_owned());
                }
                true
            });
        }
        for statement in &self.parsed.statements {
            statement.walk(&mut |n| {
                if n.kind() == "ColumnRef" {
                    let fields = n.names("fields").unwrap_or_default();
                    let last = fields.last().map_or("*", String::as_str);
                    let row = fields.len() == 1 && aliases.iter().any(|a| a == last);
                    found |= last == "*" || row || gathered.contains(&last);
                }
                !found
            });
        }
        found
    }

    /// Whether a query names a relation without schema of that name anywhere: then, under RECURSIVE, it may mean itself.
    pub(super) fn names_relation(&self, query: &Tree, name: &str) -> bool {
        let mut found = false;
        query.walk(&mut |n| {
            found |= n.kind() == "RangeVar" && n.text("schemaname").is_empty() && n.text("relname") == name;
            !found
        });
        found
    }

    /// A CTE that names itself. Every column may come to hold what any column of either side holds: one walk then covers the
    /// least fixed point. Its people can't be carried (each round adds rows): the rows above count. What earlier rounds found may
    /// move from column to column; it may not be gathered in one value.
    pub(super) fn recursive(
        &mut self,
        query: &Tree,
        name: &str,
        aliases: &[String],
        env: Env<'_>,
        thread: usize,
    ) -> Result<Output, Stop> {
        let (left, right) = (query.field("larg"), query.field("rarg"));
        if left.is_null() || right.is_null() || !query.field("with_clause").is_null() {
            return Err(unsupported(
                "recursive-query",
                "a recursive query of a form other than `… UNION [ALL] …`",
            )
            .into());
        }
        let first = self.select(left, env, Carry::No, false)?;
        list_fits(&first.columns, aliases, &format!("WITH query \"{name}\""))?;
        let mut columns = rename(first.columns, aliases);
        // What comes from its own columns is marked by them.
        let mut own = columns.clone();
        for (index, column) in own.iter_mut().enumerate() {
            let mark = Atom {
                scan: ITSELF,
                attnum: i16::try_from(index).unwrap_or(i16::MAX),
            };
            column.taint.insert(mark);
            column.identity = Some(mark);
        }
        let own = Cte {
            name: name.to_owned(),
            columns: own,
            hidden: Vec::new(),
            loose: first.loose.clone(),
            rows: first.rows.clone(),
            restricted: first.restricted,
            thread,
        };
        let scope = CteScope {
            ctes: vec![Rc::new(own)],
            parent: env.ctes,
        };
        let second = self.select(
            right,
            Env {
                ctes: Some(&scope),
                outer: env.outer,
            },
            Carry::No,
            false,
        )?;
        for part in query.list("sort_clause") {
            self.expression(part, &Level::default(), env)?;
        }
        for part in ["limit_offset", "limit_count"] {
            self.expression(query.field(part), &Level::default(), env)?;
        }
        let mut loose = first.loose;
        loose.extend(&second.loose);
        loose = match moved(&columns, &second.columns) {
            Moved::Nothing => loose,
            Moved::Whole(values) => loose.times(values),
            Moved::Gathered => loose.packed(),
        };
        let mut found = union(&second.columns);
        found.retain(|a| a.scan != ITSELF);
        blur(&mut columns, &found);
        let rows = first.rows.union(&second.rows).copied().collect();
        Ok(Output {
            columns,
            loose,
            rows,
            restricted: first.restricted || second.restricted,
            ..Output::default()
        })
    }

    pub(super) fn thread(&mut self) -> usize {
        self.next_thread += 1;
        self.next_thread
    }

    pub(super) fn select_body(&mut self, t: &Tree, env: Env<'_>, carry: Carry, top: bool) -> Result<Output, Stop> {
        let into = t.field("into_clause");
        if !into.is_null() && top && self.frame == 0 {
            self.seen.extend(into.field("rel").location());
        } else if !into.is_null() {
            return Err(unsupported("select-into", "SELECT INTO from protected relations").into());
        }
        if t.int("op") != 1 && t.int("op") != 0 {
            return self.set_operation(t, env, carry);
        }
        if !t.list("values_lists").is_empty() {
            return self.values(t, env);
        }
        let mut level = Level::default();
        let windows = self.windows.len();
        let around = std::mem::take(&mut self.conditions);
        let asked = std::mem::take(&mut self.asked);
        let scans_before = self.scans.len();
        for item in t.list("from_clause") {
            let made = self.entry(item, env, &level, top, false)?;
            level.items.push(made);
        }
        if let Some(keyword) = self.table_command(t) {
            for scan in self.scans.iter_mut().skip(scans_before) {
                scan.table_keyword = Some(keyword);
            }
        }
        self.locking(t, &level)?;
        let labels = targets(t).iter().map(|target| match target.text("name") {
            "" => expression::column_name(target.field("val")),
            name => name.to_owned(),
        });
        self.labels.push(labels.collect());
        let whole = top && self.frame == 0 && carry == Carry::Yes;
        let compared = if whole {
            self.equalities(t.field("where_clause"), &level)?
        } else {
            Vec::new()
        };
        for clause in ["where_clause", "having_clause"] {
            self.condition(t.field(clause), &level, env)?;
        }
        for clause in ["limit_offset", "limit_count"] {
            self.expression(t.field(clause), &level, env)?;
        }
        for clause in ["group_clause", "window_clause", "sort_clause", "distinct_clause"] {
            for part in t.list(clause) {
                self.expression(part, &level, env)?;
            }
        }
        self.labels.pop();
        let shape = Shape::of(t, self.look.catalog());
        let mut output = self.outputs(t, &level, &shape, env, carry, &compared)?;
        self.windows.truncate(windows);
        // What is left compares people of levels around this one.
        self.conditions.extend(around);
        self.asked = asked;
        output.compared = compared;
        self.ordinals(t, &output)?;
        if shape.grouped {
            self.smallest_group(t, &level)?;
        }
        Ok(output)
    }

    /// `ORDER BY 2`, `GROUP BY 1`: an output column by its number is a predicate on it.
    pub(super) fn ordinals(&mut self, t: &Tree, output: &Output) -> Result<(), Stop> {
        // Behind what stands for any number of columns no number is certain.
        let certain = output.columns.iter().position(|c| c.name.is_none());
        let certain = certain.unwrap_or(output.columns.len());
        for part in t
            .list("sort_clause")
            .iter()
            .map(|s| s.field("node"))
            .chain(t.list("group_clause"))
            .chain(t.list("distinct_clause"))
        {
            let value = part.field("val");
            let number = if part.kind() == "AConst" { value.int("ival") } else { 0 };
            // Hidden columns stand behind the client's: their numbers are not the client's to use.
            let is_number = part.kind() == "AConst" && !value.field("ival").is_null();
            if is_number && !usize::try_from(number).is_ok_and(|n| (1..=certain).contains(&n)) {
                return Err(if certain == output.columns.len() {
                    let words = format!("position {number} is not in select list");
                    Refusal {
                        sqlstate: "42P10",
                        ..Refusal::unsupported("ordinal", words, "number the columns of the select list from 1")
                    }
                } else {
                    unsupported("ordinal", format!("which column position {number} is cannot be known"))
                }
                .into());
            }
            let by_number = usize::try_from(number)
                .ok()
                .and_then(|n| output.columns.get(n.checked_sub(1)?));
            let by_name = part
                .names("fields")
                .filter(|f| part.kind() == "ColumnRef" && f.len() == 1)
                .and_then(|f| output.columns.iter().find(|c| c.name == f.first().cloned()));
            if let Some(column) = by_number.or(by_name) {
                self.predicates += 1;
                let touched = self.touch(&column.taint);
                self.predicates -= 1;
                touched?;
            }
        }
        Ok(())
    }

    /// Groups over restricted rows must stand for enough people: a condition beside HAVING.
    fn smallest_group(&mut self, t: &Tree, level: &Level) -> Result<(), Stop> {
        use pg_query::protobuf::Token;
        let Some(least) = self.look.min_group() else {
            return Ok(());
        };
        let mut conditions = Vec::new();
        for named in level.named().filter(|n| n.restricted) {
            let Some(key) = named.keys.iter().find(|k| k.shape == KeyShape::One) else {
                return Err(Refusal::denied(
                    "min-group",
                    format!(
                        "permission denied: Menshen cannot prove that every group stands for at least {least} people"
                    ),
                    "aggregate over the protected relation itself, not over a sub-query or view of it",
                )
                .into());
            };
            conditions.push(format!(
                "pg_catalog.count(DISTINCT {}.{}) OPERATOR(pg_catalog.>=) {least}",
                quote(&named.alias),
                quote(&key.column)
            ));
        }
        if conditions.is_empty() {
            return Ok(());
        }
        let place = || unsupported("condition-place", "a grouped query whose clauses can't be told apart");
        let (end, anchor) = self.end_of_targets(t).ok_or_else(place)?;
        let from = self
            .parsed
            .tokens
            .partition_point(|k| usize::try_from(k.start).is_ok_and(|s| s < end));
        const BEHIND: [Token; 9] = [
            Token::Window,
            Token::Union,
            Token::Intersect,
            Token::Except,
            Token::Order,
            Token::Limit,
            Token::Offset,
            Token::Fetch,
            Token::For,
        ];
        let having = self.find_token(from, &[&[Token::Having], BEHIND.as_slice()].concat());
        let written = self.parsed.token(having).is_some_and(|k| k.kind == Token::Having);
        let stop = if written {
            self.find_token(having + 1, &BEHIND)
        } else {
            having
        };
        let last = stop
            .checked_sub(1)
            .and_then(|i| self.parsed.token(i))
            .ok_or_else(place)?
            .end;
        let start = if written {
            self.parsed.token(having + 1).ok_or_else(place)?.start
        } else {
            last
        };
        let what = What::Filter {
            of: ConditionOf::Having(anchor),
            filter: conditions.join(" AND "),
            condition: written,
            leaks: false,
        };
        self.change(start, last, what);
        Ok(())
    }

    /// The output columns of a level: a select list, or RETURNING (`t` is the SelectStmt or ReturningClause). `compared`: whom the level's
    /// conditions show besides.
    pub(super) fn outputs(
        &mut self,
        t: &Tree,
        level: &Level,
        shape: &Shape,
        env: Env<'_>,
        carry: Carry,
        compared: &[Compared],
    ) -> Result<Output, Stop> {
        let windows = self.windows.len();
        let mut parts = ListParts::default();
        let mut columns = Vec::new();
        let mut stars: Vec<(&Tree, Option<String>)> = Vec::new();
        for target in targets(t) {
            let value = target.field("val");
            if let Some(qualifier) = star_of(value) {
                let (covered, loose) = self.expand_star(value, &qualifier, level, env)?;
                parts.direct.extend(union(&covered));
                parts.loose.extend(&loose);
                collect_sublinks(value, Place::Plain, self.look.catalog(), &mut parts.sublinks);
                columns.extend(covered);
                if value.kind() == "ColumnRef" {
                    stars.push((target, qualifier.last().cloned()));
                }
                continue;
            }
            let changed = self.changes.len();
            let flow = self.flow(value, level, env)?;
            collect_sublinks(value, Place::Plain, self.look.catalog(), &mut parts.sublinks);
            parts.direct.extend(flow.direct);
            parts.loose.extend(&flow.loose);
            let name = if target.text("name").is_empty() {
                expression::column_name(value)
            } else {
                target.text("name").to_owned()
            };
            if target.text("name").is_empty() && self.changes.len() > changed {
                self.label(t, target, &name)?;
            }
            columns.push(OutColumn {
                name: Some(name),
                taint: flow.taint,
                identity: flow.identity,
            });
        }
        let mut output = Output {
            columns,
            hidden: Vec::new(),
            loose: Loose::default(),
            rows: Taint::new(),
            compared: Vec::new(),
            restricted: level.named().any(|n| n.restricted),
            plain: shape.plain,
            flowing: 0,
        };
        parts.windows = self.windows.split_off(windows);
        let conditions = std::mem::take(&mut self.conditions);
        let (own, outer): (Taint, Taint) = conditions
            .into_iter()
            .chain(level.named().flat_map(|n| n.rows.iter().copied()))
            .partition(|a| self.most(level, self.key_of(*a)).is_some());
        self.conditions = outer;
        let mut asked = std::mem::take(&mut self.asked);
        if self.only_counts(t, shape, &output.columns) {
            asked.clear();
        } else {
            output.rows = own;
        }
        self.check_stars(&stars, level, carry, shape)?;
        if self.look.metered() {
            self.spell_stars(&stars, level)?;
        }
        let shown: BTreeSet<(ScanId, usize)> = union(&output.columns)
            .into_iter()
            .filter(|a| !self.look.metered() || !self.counts(*a).is_empty())
            .map(|a| self.key_of(a))
            .chain(compared.iter().filter(|(_, c)| !c.is_empty()).map(|(key, _)| *key))
            .chain(output.rows.iter().map(|a| self.key_of(*a)))
            .collect();
        if shown.is_empty() && asked.is_empty() {
            return Ok(output);
        }
        parts.compared = compared.iter().map(|(key, _)| *key).collect();
        parts.compared.extend(output.rows.iter().map(|a| self.key_of(*a)));
        if carry == Carry::No {
            output.loose = self.left_loose(level, shape, &shown, &parts, &output.columns);
            for one in asked {
                for key in self.keys_of(&one.rows) {
                    output.loose.add(key, Many::AtMost(1));
                }
                output.rows.extend(one.rows);
            }
            return Ok(output);
        }
        self.carry(t, level, shape, &shown, &parts, &stars, env, &mut output)?;
        for one in asked {
            self.people_asked(t, one, level, shape, env, &mut output)?;
        }
        Ok(output)
    }

    /// Where no hidden columns are added: how many people of each key a row may show.
    fn left_loose(
        &self,
        level: &Level,
        shape: &Shape,
        shown: &BTreeSet<(ScanId, usize)>,
        parts: &ListParts<'_>,
        columns: &[OutColumn],
    ) -> Loose {
        let mut loose = Loose::default();
        for key in shown {
            let Some(most) = self.most(level, *key) else { continue };
            if self.has_key(&parts.direct, *key) || parts.compared.contains(key) {
                // The rows of a group that a person's key is the same in are about that person.
                let by_person = !shape.grouping_sets
                    && most == Many::AtMost(1)
                    && columns
                        .iter()
                        .filter_map(|c| c.identity)
                        .any(|i| self.is_person(i, *key));
                loose.add(*key, if shape.grouped && !by_person { Many::Any } else { most });
            }
            for call in parts.windows.iter().filter(|w| self.has_key(&w.taint, *key)) {
                loose.add(
                    *key,
                    if call.is_one() && !shape.grouped {
                        most
                    } else {
                        Many::Any
                    },
                );
            }
        }
        let packed = shape.grouped;
        loose.extend(&if packed {
            parts.loose.packed()
        } else {
            parts.loose.clone()
        });
        for call in &parts.windows {
            loose.extend(&if packed || !call.is_one() {
                call.loose.packed()
            } else {
                call.loose.clone()
            });
        }
        loose
    }

    /// Whether a level gives nothing but numbers of rows, and groups by nothing that tells a person: then nobody is shown.
    fn only_counts(&self, t: &Tree, shape: &Shape, columns: &[OutColumn]) -> bool {
        let list = targets(t);
        let plain = |(target, column): (&Tree, &OutColumn)| {
            let value = target.field("val");
            match value.kind() {
                "AConst" | "ParamRef" => true,
                "FuncCall" => value
                    .names("funcname")
                    .and_then(|mut n| n.pop())
                    .is_some_and(|n| expression::only_counts(&n)),
                "ColumnRef" => {
                    let person = |i: Atom| {
                        let keys = self.scans.get(i.scan).map_or(0, |s| s.protected.keys.len());
                        (0..keys).any(|k| self.is_person(i, (i.scan, k)))
                    };
                    column.taint.is_empty() && !column.identity.is_none_or(person)
                }
                _ => false,
            }
        };
        shape.grouped && list.len() == columns.len() && list.iter().zip(columns).all(plain)
    }

    /// How many people of this key a row of the level's FROM may show; `None` where its entries hold none of them.
    pub(super) fn most(&self, level: &Level, key: (ScanId, usize)) -> Option<Many> {
        let mut most: Option<Many> = None;
        for named in level.named() {
            // For a view's lineage, an entry that only names the person counts too: it may name another than the value's.
            let holds = self.has_key(&named.rows, key)
                || named.columns.iter().any(|c| {
                    self.has_key(&c.taint, key) || !self.look.metered() && c.identity.is_some_and(|i| i.scan == key.0)
                });
            if !holds {
                continue;
            }
            let keys = named.keys.iter().filter(|r| r.key == key).map(|r| match r.shape {
                KeyShape::One => Many::AtMost(1),
                KeyShape::List | KeyShape::Count => Many::Any,
            });
            for many in keys.chain(named.loose.get(key)) {
                most = Some(most.map_or(many, |m| m.plus(many)));
            }
        }
        most
    }

    pub(super) fn keys_of(&self, taint: &Taint) -> BTreeSet<(ScanId, usize)> {
        taint.iter().map(|a| self.key_of(*a)).collect()
    }

    pub(super) fn has_key(&self, taint: &Taint, key: (ScanId, usize)) -> bool {
        taint.iter().any(|a| a.scan == key.0 && self.key_of(*a) == key)
    }

    /// Whether a column is the one that names this person.
    fn is_person(&self, column: Atom, key: (ScanId, usize)) -> bool {
        column.scan == key.0
            && self.scans.get(key.0).is_some_and(|s| {
                let name = s.protected.keys.get(key.1).and_then(|k| k.column.as_ref());
                s.protected.column(column.attnum).map(|c| &c.column.name) == name && name.is_some()
            })
    }

    /// `TABLE name`: the grammar makes it a SELECT whose `*` has no place. Gives the place of the keyword.
    pub(super) fn table_command(&self, t: &Tree) -> Option<usize> {
        let [target] = t.list("target_list") else { return None };
        if target.location().is_some() {
            return None;
        }
        let [relation] = t.list("from_clause") else { return None };
        let mut index = self.parsed.token_at(relation.location()?)?;
        for _ in 0..3 {
            index = index.checked_sub(1)?;
            let token = self.parsed.token(index)?;
            if token.kind == pg_query::protobuf::Token::Table {
                return Some(token.start);
            }
        }
        None
    }

    pub(super) fn check_stars(
        &mut self,
        stars: &[(&Tree, Option<String>)],
        level: &Level,
        carry: Carry,
        shape: &Shape,
    ) -> Result<(), Stop> {
        if carry == Carry::Yes && !shape.grouped && !shape.distinct {
            return Ok(());
        }
        let threads: Vec<usize> = level
            .named()
            .filter(|n| n.carries && stars.iter().any(|(_, q)| q.as_ref().is_none_or(|q| *q == n.alias)))
            .flat_map(|n| n.threads.clone())
            .collect();
        if threads.is_empty() {
            Ok(())
        } else {
            Err(self.no_thread(&threads))
        }
    }

    /// Where a masked scan gives system columns, `*` must not show them; where it covers the target of a data modification, it must
    /// show masks: it is spelled out.
    pub(super) fn spell_stars(&mut self, stars: &[(&Tree, Option<String>)], level: &Level) -> Result<(), Stop> {
        let odd = |n: &Named| {
            n.scan
                .and_then(|s| self.scans.get(s))
                .is_some_and(|s| s.replaced && !s.system.is_empty() || s.target && s.restricted)
        };
        let mut spelled = Vec::new();
        for (target, qualifier) in stars {
            let covered: Vec<&Named> = level
                .named()
                .filter(|n| qualifier.as_ref().is_none_or(|q| *q == n.alias))
                .collect();
            if !covered.iter().any(|n| odd(n)) {
                continue;
            }
            let threads: Vec<usize> = covered
                .iter()
                .filter(|n| n.carries)
                .flat_map(|n| n.threads.clone())
                .collect();
            if !threads.is_empty() {
                return Err(self.no_thread(&threads));
            }
            let place = target.location().and_then(|start| {
                let mut index = self.parsed.token_at(start)?;
                loop {
                    let token = self.parsed.token(index)?;
                    if token.kind == pg_query::protobuf::Token::Ascii42 {
                        return Some((start, token.end));
                    }
                    index += 1;
                }
            });
            let (Some(parts), Some((start, end))) = (self.star_parts(level, qualifier.as_ref()), place) else {
                return Err(unsupported("system-column-with-star", "a system column beside `*` in this form").into());
            };
            spelled.push(Spelled {
                start,
                end,
                parts,
                frame: self.frame,
            });
        }
        self.spelled.extend(spelled);
        Ok(())
    }
}

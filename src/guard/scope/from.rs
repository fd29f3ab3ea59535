//! FROM: relations, sub-queries, joins, functions, and FOR UPDATE's names.

use super::*;

impl Walk<'_> {
    /// One FROM entry. `so_far` holds the entries to its left, which LATERAL ones may name.
    pub(super) fn entry(
        &mut self,
        t: &Tree,
        env: Env<'_>,
        so_far: &Level,
        simple: bool,
        nullable: bool,
    ) -> Result<Item, Stop> {
        match t.kind() {
            "RangeVar" => self.range_var(t, env, simple && !nullable, nullable),
            "RangeSubselect" => {
                let thread = self.thread();
                let carry = if self.unthreaded.contains(&thread) {
                    Carry::No
                } else {
                    Carry::Yes
                };
                let outer = Outer {
                    level: so_far,
                    parent: env.outer,
                };
                // Without LATERAL the left entries are not in scope; taking them to be can only add to what is counted.
                let inner = Env {
                    ctes: env.ctes,
                    outer: Some(&outer),
                };
                let output = self.select(t.field("subquery"), inner, carry, false)?;
                let alias = t.field("alias");
                let what = format!("table \"{}\"", alias.text("aliasname"));
                list_fits(&output.columns, &alias.names("colnames").unwrap_or_default(), &what)?;
                Ok(self.derived(
                    output.columns,
                    output.hidden,
                    (output.loose, output.rows, output.restricted),
                    thread,
                    alias,
                    "",
                    nullable,
                ))
            }
            "JoinExpr" => self.join(t, env, so_far, simple, nullable),
            "RangeFunction" | "RangeTableFunc" | "JsonTable" => self.function_item(t, env, so_far),
            "RangeTableSample" => {
                let item = self.entry(t.field("relation"), env, so_far, false, nullable)?;
                for part in t.list("args") {
                    self.expression(part, so_far, env)?;
                }
                self.expression(t.field("repeatable"), so_far, env)?;
                let clause = self.sample_clause(t);
                for scan in item.named.iter().filter_map(|n| n.scan) {
                    if let Some(scan) = self.scans.get_mut(scan).filter(|s| s.replaced) {
                        // Methods of extensions may count hidden rows; arguments that are computed may name what is not inside.
                        let form =
                            || unsupported("tablesample", "TABLESAMPLE by this method or with computed arguments");
                        scan.sample = Some(clause.ok_or_else(form)?);
                    }
                }
                Ok(item)
            }
            _ => Err(unknown_node(t.kind()).into()),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one derived table")]
    pub(super) fn derived(
        &mut self,
        columns: Vec<OutColumn>,
        hidden: Vec<Hidden>,
        (loose, rows, restricted): (Loose, Taint, bool),
        thread: usize,
        alias: &Tree,
        name: &str,
        nullable: bool,
    ) -> Item {
        let columns = rename(columns, &alias.names("colnames").unwrap_or_default());
        let alias = if alias.is_null() { name } else { alias.text("aliasname") };
        let keys = hidden
            .iter()
            .map(|h| KeyRef {
                key: h.key,
                column: h.name.clone(),
                shape: h.shape,
                fresh: false,
                nullable,
            })
            .collect();
        let named = Named {
            alias: alias.to_owned(),
            schema: None,
            columns: columns.clone(),
            keys,
            scan: None,
            threads: vec![thread],
            carries: !hidden.is_empty(),
            hidden,
            loose,
            rows,
            restricted,
        };
        Item {
            star: columns,
            named: vec![named],
        }
    }

    /// The bytes of `TABLESAMPLE {SYSTEM | BERNOULLI} (…) [REPEATABLE (…)]` with constant arguments.
    fn sample_clause(&self, t: &Tree) -> Option<(usize, usize)> {
        use pg_query::protobuf::Token;
        fn constant(t: &Tree) -> bool {
            match t.kind() {
                "AConst" | "ParamRef" => true,
                "TypeCast" => constant(t.field("arg")),
                "AExpr" => constant(t.field("lexpr")) && constant(t.field("rexpr")),
                _ => t.is_null(),
            }
        }
        let method = t.names("method")?;
        let known = |m: &String| matches!(m.as_str(), "system" | "bernoulli");
        let plain = match method.as_slice() {
            [one] => known(one),
            [schema, one] => schema == "pg_catalog" && known(one),
            _ => false,
        };
        if !plain || !t.list("args").iter().all(constant) || !constant(t.field("repeatable")) {
            return None;
        }
        let first = self.parsed.token_at(t.location()?)?.checked_sub(1)?;
        let start = self.parsed.token(first).filter(|k| k.kind == Token::Tablesample)?.start;
        let closed = |from: usize| {
            let mut depth = 0_usize;
            let mut index = from;
            loop {
                match self.parsed.token(index)?.kind {
                    Token::Ascii40 => depth += 1,
                    Token::Ascii41 if depth == 1 => return Some(index),
                    Token::Ascii41 => depth = depth.checked_sub(1)?,
                    _ => {}
                }
                index += 1;
            }
        };
        let mut last = closed(first + 1)?;
        if self.parsed.token(last + 1).is_some_and(|k| k.kind == Token::Repeatable) {
            last = closed(last + 1)?;
        }
        Some((start, self.parsed.token(last)?.end))
    }

    pub(super) fn range_var(&mut self, t: &Tree, env: Env<'_>, simple: bool, nullable: bool) -> Result<Item, Stop> {
        let (schema, name) = (t.text("schemaname"), t.text("relname"));
        let location = t
            .location()
            .ok_or_else(|| unsupported("relation-place", "a relation without a place in the text"))?;
        self.seen.insert(location);
        let alias = t.field("alias");
        if schema.is_empty()
            && t.text("catalogname").is_empty()
            && let Some(cte) = env.cte(name)
        {
            let shown = if alias.is_null() { name } else { alias.text("aliasname") };
            let names = alias.names("colnames").unwrap_or_default();
            list_fits(&cte.columns, &names, &format!("table \"{shown}\""))?;
            return Ok(self.derived(
                cte.columns.clone(),
                cte.hidden.clone(),
                (cte.loose.clone(), cte.rows.clone(), cte.restricted),
                cte.thread,
                alias,
                name,
                nullable,
            ));
        }
        let mut written: Vec<String> = Vec::new();
        for part in [t.text("catalogname"), schema, name] {
            if !part.is_empty() {
                written.push(part.to_owned());
            }
        }
        self.relations.insert(written);
        let catalog = self.look.catalog();
        let database = t.text("catalogname");
        if !database.is_empty() && database != catalog.database {
            return Err(unsupported("cross-database", "cross-database references are not implemented").into());
        }
        let schema = (!schema.is_empty()).then_some(schema);
        let Some(relation) = catalog.resolve(schema, name, self.look.path()) else {
            return Err(missing(schema, name));
        };
        let aliased = !alias.is_null();
        let shown = if aliased {
            alias.text("aliasname").to_owned()
        } else {
            name.to_owned()
        };
        let Some(protected) = self.look.protected(relation)? else {
            let columns: Vec<OutColumn> = relation
                .columns
                .iter()
                .map(|c| OutColumn {
                    name: Some(c.name.clone()),
                    taint: Taint::new(),
                    identity: None,
                })
                .collect();
            let columns = rename(columns, &alias.names("colnames").unwrap_or_default());
            let named = Named {
                alias: shown,
                schema: (!aliased).then(|| relation.name.schema.clone()),
                columns: columns.clone(),
                keys: Vec::new(),
                scan: None,
                threads: Vec::new(),
                carries: false,
                hidden: Vec::new(),
                loose: Loose::default(),
                rows: Taint::new(),
                restricted: false,
            };
            return Ok(Item {
                star: columns,
                named: vec![named],
            });
        };
        let treated = self.look.treat(&protected)?;
        let id = self.scans.len();
        let thread = self.thread();
        let columns: Vec<OutColumn> = protected
            .columns
            .iter()
            .map(|c| {
                let atom = Atom {
                    scan: id,
                    attnum: c.column.attnum,
                };
                let taint = if c.sources.is_empty() {
                    Taint::new()
                } else {
                    Taint::from([atom])
                };
                OutColumn {
                    name: Some(c.column.name.clone()),
                    taint,
                    identity: Some(atom),
                }
            })
            .collect();
        let names = alias.names("colnames").unwrap_or_default();
        if let Err(refusal) = list_fits(&columns, &names, &format!("table \"{shown}\"")) {
            // Where the catalog is only old, there are more.
            return Err(Stop::Missing(shown, refusal));
        }
        let columns = rename(columns, &names);
        let (mut keys, mut hidden, mut extra) = (Vec::new(), Vec::new(), Vec::new());
        let mut loose = Loose::default();
        for (index, key) in protected.keys.iter().enumerate() {
            let named = key.column.as_ref().and_then(|column| {
                let position = protected.columns.iter().position(|c| c.column.name == *column)?;
                Some((column, position))
            });
            let Some((column, position)) = named else {
                loose.add((id, index), key.most);
                continue;
            };
            let masked = treated
                .treatments
                .get(position)
                .and_then(Option::as_ref)
                .is_some_and(|t| t.kind != Kind::Clear);
            if !masked {
                // Alias column lists rename it.
                let name = columns
                    .get(position)
                    .and_then(|c| c.name.clone())
                    .unwrap_or_else(|| column.clone());
                keys.push(KeyRef {
                    key: (id, index),
                    column: name,
                    shape: KeyShape::One,
                    fresh: true,
                    nullable: !key.not_null,
                });
            } else if self.look.metered() && treated.replaced && !self.unthreaded.contains(&thread) {
                let name = self.hidden_name();
                extra.push((name.clone(), index));
                keys.push(KeyRef {
                    key: (id, index),
                    column: name.clone(),
                    shape: KeyShape::One,
                    fresh: false,
                    nullable,
                });
                hidden.push(Hidden {
                    name,
                    shape: KeyShape::One,
                    key: (id, index),
                });
            } else {
                loose.add((id, index), Many::AtMost(1));
            }
        }
        let (span, only) = self
            .relation_span(location)
            .ok_or_else(|| unsupported("relation-place", "a relation whose place in the text can't be found"))?;
        let treated_restricted = treated.replaced;
        self.scans.push(Scan {
            treatments: treated.treatments,
            replaced: treated.replaced,
            target: false,
            restricted: treated.replaced,
            span,
            only: only || !t.flag("inh"),
            aliased,
            alias: shown.clone(),
            system: BTreeSet::new(),
            extra,
            shown: BTreeSet::new(),
            late: BTreeSet::new(),
            simple,
            table_keyword: None,
            filter: treated.filter,
            frame: self.frame,
            location,
            sample: None,
            protected: Arc::clone(&protected),
        });
        let named = Named {
            alias: shown,
            schema: (!aliased).then(|| relation.name.schema.clone()),
            columns: columns.clone(),
            keys,
            scan: Some(id),
            threads: vec![thread],
            carries: !hidden.is_empty(),
            hidden,
            loose,
            rows: Taint::new(),
            restricted: treated_restricted,
        };
        Ok(Item {
            star: columns,
            named: vec![named],
        })
    }

    /// The bytes of a relation name: `[ONLY [(]] [catalog.][schema.]name [)] [*]`, and whether `ONLY` is there.
    pub(super) fn relation_span(&self, location: usize) -> Option<((usize, usize), bool)> {
        use pg_query::protobuf::Token;
        let first = self.parsed.token_at(location)?;
        let mut last = first;
        // A U&"…" name may be followed by UESCAPE '…'.
        let skip_escape = |mut i: usize| -> Option<usize> {
            while self.parsed.token(i + 1).is_some_and(|t| t.kind == Token::Uescape) {
                i += 2;
                self.parsed.token(i)?;
            }
            Some(i)
        };
        last = skip_escape(last)?;
        while self.parsed.token(last + 1).is_some_and(|t| t.kind == Token::Ascii46) {
            last = skip_escape(last + 2)?;
        }
        let mut start = self.parsed.token(first)?.start;
        let mut only = false;
        if let Some(before) = first.checked_sub(1).and_then(|i| self.parsed.token(i)) {
            if before.kind == Token::Only {
                start = before.start;
                only = true;
            } else if before.kind == Token::Ascii40
                && let Some(keyword) = first.checked_sub(2).and_then(|i| self.parsed.token(i))
                && keyword.kind == Token::Only
            {
                start = keyword.start;
                only = true;
                last += 1;
                if self.parsed.token(last)?.kind != Token::Ascii41 {
                    return None;
                }
            }
        }
        if !only && self.parsed.token(last + 1).is_some_and(|t| t.kind == Token::Ascii42) {
            last += 1;
        }
        Some(((start, self.parsed.token(last)?.end), only))
    }

    pub(super) fn join(
        &mut self,
        t: &Tree,
        env: Env<'_>,
        so_far: &Level,
        simple: bool,
        nullable: bool,
    ) -> Result<Item, Stop> {
        // 1 inner, 2 left, 3 full, 4 right: PostgreSQL's JoinType.
        let kind = t.int("jointype");
        let left = self.entry(t.field("larg"), env, so_far, simple, nullable || kind == 3 || kind == 4)?;
        let mut with_left = so_far.clone();
        with_left.items.push(left.clone());
        let right = self.entry(
            t.field("rarg"),
            env,
            &with_left,
            simple,
            nullable || kind == 2 || kind == 3,
        )?;
        let natural = t.flag("is_natural");
        let mut named: Vec<Named> = left.named.into_iter().chain(right.named).collect();
        if natural {
            let threads: Vec<usize> = named
                .iter()
                .filter(|n| n.carries)
                .flat_map(|n| n.threads.clone())
                .collect();
            if !threads.is_empty() {
                return Err(self.no_thread(&threads));
            }
            if named.iter().any(|n| {
                n.scan
                    .and_then(|s| self.scans.get(s))
                    .is_some_and(|s| !s.system.is_empty())
            }) {
                return Err(unsupported("system-column-with-natural", "a system column beside NATURAL JOIN").into());
            }
        }
        let mut both = so_far.clone();
        both.items.push(Item {
            star: left.star.iter().chain(&right.star).cloned().collect(),
            named: named.clone(),
        });
        self.condition(t.field("quals"), &both, env)?;
        let common: Vec<String> = if natural {
            left.star
                .iter()
                .filter_map(|c| c.name.clone())
                .filter(|n| right.star.iter().any(|c| c.name.as_ref() == Some(n)))
                .collect()
        } else {
            t.names("using_clause").unwrap_or_default()
        };
        let mut star: Vec<OutColumn> = Vec::new();
        for name in &common {
            let mut taint = Taint::new();
            for c in left
                .star
                .iter()
                .chain(&right.star)
                .filter(|c| c.name.as_ref() == Some(name))
            {
                taint.extend(c.taint.iter().copied());
            }
            self.predicates += 1;
            let touched = self.touch(&taint);
            self.predicates -= 1;
            touched?;
            self.decided_by(&taint);
            let identity = left
                .star
                .iter()
                .find(|c| c.name.as_ref() == Some(name))
                .and_then(|c| c.identity);
            star.push(OutColumn {
                name: Some(name.clone()),
                taint,
                identity: if kind == 1 { identity } else { None },
            });
        }
        let rest = |c: &&OutColumn| c.name.as_ref().is_none_or(|n| !common.contains(n));
        star.extend(left.star.iter().filter(rest).cloned());
        star.extend(right.star.iter().filter(rest).cloned());
        let using_alias = t.field("join_using_alias");
        if !using_alias.is_null() {
            let columns = star.iter().take(common.len()).cloned().collect();
            named.push(plain_named(using_alias.text("aliasname"), columns));
        }
        let alias = t.field("alias");
        if alias.is_null() {
            return Ok(Item { star, named });
        }
        // An alias hides the names inside; keys stay in reach where their column name is unique.
        let star = rename(star, &alias.names("colnames").unwrap_or_default());
        let renamed = !alias.list("colnames").is_empty();
        let unique = |name: &str| !renamed && star.iter().filter(|c| c.name.as_deref() == Some(name)).count() == 1;
        let mut keys = Vec::new();
        let mut hidden = Vec::new();
        let mut loose = Loose::default();
        for n in &named {
            for key in &n.keys {
                if !key.fresh || unique(&key.column) {
                    keys.push(key.clone());
                } else {
                    loose.add(key.key, Many::AtMost(1));
                }
            }
            hidden.extend(n.hidden.clone());
            loose.extend(&n.loose);
        }
        let joined = Named {
            alias: alias.text("aliasname").to_owned(),
            schema: None,
            columns: star.clone(),
            keys,
            scan: None,
            threads: named.iter().flat_map(|n| n.threads.clone()).collect(),
            carries: named.iter().any(|n| n.carries),
            hidden,
            loose,
            rows: named.iter().flat_map(|n| n.rows.iter().copied()).collect(),
            restricted: named.iter().any(|n| n.restricted),
        };
        Ok(Item {
            star,
            named: vec![joined],
        })
    }

    /// Functions, XMLTABLE and JSON_TABLE in FROM: their columns derive from their arguments.
    pub(super) fn function_item(&mut self, t: &Tree, env: Env<'_>, so_far: &Level) -> Result<Item, Stop> {
        let mut taint = Taint::new();
        let mut loose = Loose::default();
        for field in [
            "functions",
            "docexpr",
            "rowexpr",
            "namespaces",
            "columns",
            "context_item",
            "pathspec",
            "passing",
            "on_error",
        ] {
            let part = t.field(field);
            if !part.is_null() {
                let flow = self.flow_any(part, so_far, env)?;
                // How many rows it gives may depend on them.
                self.decided_by(&flow.taint);
                taint.extend(flow.taint);
                loose.extend(&flow.loose);
            }
        }
        let alias = t.field("alias");
        let mut names: Vec<String> = t
            .list("coldeflist")
            .iter()
            .map(|c| c.text("colname").to_owned())
            .collect();
        let closed = !names.is_empty() && !t.flag("ordinality");
        if names.is_empty() {
            names = alias.names("colnames").unwrap_or_default();
        }
        let shown = if alias.is_null() {
            t.list("functions").first().map_or_else(String::new, |f| {
                f.list("items")
                    .first()
                    .map_or_else(String::new, expression::column_name)
            })
        } else {
            alias.text("aliasname").to_owned()
        };
        if names.is_empty() {
            // A function of one unnamed column names it after the alias.
            names.push(shown.clone());
        }
        let mut columns: Vec<OutColumn> = names
            .into_iter()
            .map(|n| OutColumn {
                name: Some(n),
                taint: taint.clone(),
                identity: None,
            })
            .collect();
        if !closed {
            columns.push(OutColumn {
                name: None,
                taint: taint.clone(),
                identity: None,
            });
        }
        let mut named = plain_named(&shown, columns.clone());
        named.loose = loose;
        Ok(Item {
            star: columns,
            named: vec![named],
        })
    }

    pub(super) fn locking(&mut self, t: &Tree, level: &Level) -> Result<(), Stop> {
        for clause in t.list("locking_clause") {
            for relation in clause.list("locked_rels") {
                if let Some(location) = relation.location() {
                    self.seen.insert(location);
                }
                let name = relation.text("relname");
                if !relation.text("schemaname").is_empty() || !level.named().any(|n| n.alias == name) {
                    return Err(Refusal {
                        sqlstate: "42P01",
                        ..unsupported(
                            "locking-clause",
                            format!("relation \"{name}\" in FOR clause not found in FROM clause"),
                        )
                    }
                    .into());
                }
            }
        }
        Ok(())
    }
}

//! INSERT, UPDATE, DELETE and MERGE: what is assigned where, which rows are reached, what RETURNING shows.
//!
//! Three rules hold beside the masking. A column that is shown masked may be assigned only with a grant's `write`, and then a value
//! equal to its mask leaves the stored value alone (promise 6). Clear protected values may be stored only in columns of their own
//! class, else a grant must say `derive` (laundering). Rows that a filter hides are not there to be changed.

use pg_query::protobuf::Token;

use super::*;

/// A column that is assigned.
#[derive(Debug, Clone)]
struct Assigned {
    name: String,
    /// Name of its class, where it has one.
    class: Option<String>,
    /// Where it is not clear: its treatment.
    masked: Option<ColumnTreatment>,
    /// Its column in a protected target.
    atom: Option<Atom>,
}

/// The relation that is modified.
struct Target {
    named: Named,
    scan: Option<ScanId>,
    /// First token after its name and alias may be found from here.
    index: usize,
    location: usize,
    columns: Vec<Assigned>,
}

impl Walk<'_> {
    /// A data modification as a statement or in WITH. Its output is what RETURNING gives.
    pub(super) fn modify(&mut self, t: &Tree, env: Env<'_>, carry: Carry) -> Result<Output, Stop> {
        self.writes = true;
        self.with(t, env, |walk, env| match t.kind() {
            "InsertStmt" => walk.insert(t, env, carry),
            "UpdateStmt" => walk.update(t, env, carry),
            "DeleteStmt" => walk.delete(t, env, carry),
            "MergeStmt" => walk.merge(t, env, carry),
            kind => Err(unknown_node(kind).into()),
        })
    }

    fn update(&mut self, t: &Tree, env: Env<'_>, carry: Carry) -> Result<Output, Stop> {
        let before = self.scans.len();
        let target = self.target(t.field("relation"))?;
        let mut level = level_of(&target);
        for item in t.list("from_clause") {
            let made = self.entry(item, env, &level, false, false)?;
            level.items.push(made);
        }
        let after = self.scans.len();
        self.assignments(t.list("target_list"), &target, &level, env)?;
        let condition = t.field("where_clause");
        self.expression(condition, &level, env)?;
        let set = self.find_token(target.index, &[Token::Set]);
        self.where_filter(
            &target,
            condition,
            set,
            ConditionOf::Modification(target.location),
            &[Token::Where, Token::Returning],
        )?;
        self.returning(t, &target, level, (before, after), env, carry)
    }

    fn delete(&mut self, t: &Tree, env: Env<'_>, carry: Carry) -> Result<Output, Stop> {
        let before = self.scans.len();
        let target = self.target(t.field("relation"))?;
        let mut level = level_of(&target);
        for item in t.list("using_clause") {
            let made = self.entry(item, env, &level, false, false)?;
            level.items.push(made);
        }
        let after = self.scans.len();
        let condition = t.field("where_clause");
        self.expression(condition, &level, env)?;
        self.where_filter(
            &target,
            condition,
            target.index,
            ConditionOf::Modification(target.location),
            &[Token::Where, Token::Returning],
        )?;
        self.returning(t, &target, level, (before, after), env, carry)
    }

    fn where_filter(
        &mut self,
        target: &Target,
        condition: &Tree,
        from: usize,
        of: ConditionOf,
        stops: &[Token],
    ) -> Result<(), Stop> {
        let Some(scan) = target.scan else { return Ok(()) };
        let found = self.find_token(from, stops);
        let is_where = self.parsed.token(found).is_some_and(|k| k.kind == Token::Where);
        if is_where == condition.is_null() {
            return Err(unsupported("condition-place", "a WHERE clause whose place can't be found").into());
        }
        if is_where {
            let end = self.find_token(found + 1, &[Token::Returning]);
            self.filter_target(scan, of, condition, Some(found), end)
        } else {
            self.filter_target(scan, of, condition, None, found)
        }
    }

    fn insert(&mut self, t: &Tree, env: Env<'_>, carry: Carry) -> Result<Output, Stop> {
        let before = self.scans.len();
        let mut target = self.target(t.field("relation"))?;
        let columns: Vec<Assigned> = if t.list("cols").is_empty() {
            target.columns.clone()
        } else {
            let mut listed = Vec::new();
            for column in t.list("cols") {
                self.indirection(column, env)?;
                listed.push(self.assigned(&target, column.text("name"))?);
            }
            listed
        };
        let source = t.field("select_stmt");
        let mut flows: Vec<Taint> = Vec::new();
        if !source.is_null() {
            let output = self.select(source, env, Carry::No, false)?;
            let regular = output.columns.iter().all(|c| c.name.is_some());
            let all = union(&output.columns);
            for (index, column) in columns.iter().enumerate() {
                let given = output.columns.get(index);
                if regular && given.is_none() {
                    // Fewer values than columns: the rest have their defaults.
                    if !t.list("cols").is_empty() {
                        break;
                    }
                    continue;
                }
                let taint = if regular {
                    given.map_or_else(Taint::new, |c| c.taint.clone())
                } else {
                    all.clone()
                };
                self.may_insert(column)?;
                self.launder(column, &taint)?;
                flows.push(taint);
            }
        }
        // What was inserted may come back: by RETURNING, and as `excluded`.
        let mut excluded = target.named.columns.clone();
        for column in &mut excluded {
            let place = columns
                .iter()
                .position(|c| Some(c.name.as_str()) == column.name.as_deref());
            column.taint = place.and_then(|p| flows.get(p)).cloned().unwrap_or_default();
            column.identity = None;
        }
        if target.scan.is_none() {
            for (column, more) in target.named.columns.iter_mut().zip(&excluded) {
                column.taint.extend(more.taint.iter().copied());
            }
        }
        let after = self.scans.len();
        let level = level_of(&target);
        let conflict = t.field("on_conflict_clause");
        if !conflict.is_null() {
            self.conflict(conflict, &target, &level, excluded, env)?;
        }
        self.returning(t, &target, level, (before, after), env, carry)
    }

    fn conflict(
        &mut self,
        conflict: &Tree,
        target: &Target,
        level: &Level,
        excluded: Vec<OutColumn>,
        env: Env<'_>,
    ) -> Result<(), Stop> {
        // Which unique index is meant: names and expressions to find it by, evaluated on no row.
        let infer = conflict.field("infer");
        self.inferring = true;
        let inferred = infer
            .list("index_elems")
            .iter()
            .try_for_each(|element| self.expression(element.field("expr"), level, env))
            .and_then(|()| self.expression(infer.field("where_clause"), level, env));
        self.inferring = false;
        inferred?;
        // 2: ONCONFLICT_NOTHING
        if conflict.list("target_list").is_empty() {
            return Ok(());
        }
        let mut both = level.clone();
        let named = plain_named("excluded", excluded);
        both.items.push(Item {
            star: Vec::new(),
            named: vec![named],
        });
        self.assignments(conflict.list("target_list"), target, &both, env)?;
        let condition = conflict.field("where_clause");
        self.expression(condition, &both, env)?;
        let start = conflict
            .location()
            .and_then(|at| self.parsed.token_at(at))
            .ok_or_else(|| unsupported("condition-place", "ON CONFLICT whose place can't be found"))?;
        let set = self.find_token(self.find_token(start, &[Token::Do]), &[Token::Set]);
        self.where_filter(
            target,
            condition,
            set,
            ConditionOf::Conflict(target.location),
            &[Token::Where, Token::Returning],
        )
    }

    fn merge(&mut self, t: &Tree, env: Env<'_>, carry: Carry) -> Result<Output, Stop> {
        let before = self.scans.len();
        let target = self.target(t.field("relation"))?;
        let mut level = level_of(&target);
        let source = self.entry(t.field("source_relation"), env, &level, false, false)?;
        // RETURNING * gives the source's columns first.
        level.items.insert(0, source);
        let after = self.scans.len();
        let condition = t.field("join_condition");
        self.expression(condition, &level, env)?;
        if let Some(scan) = target.scan {
            let when = self.find_token(target.index, &[Token::When]);
            let mut on = self.find_token(target.index, &[Token::On]);
            loop {
                let next = self.find_token(on + 1, &[Token::On]);
                if next >= when {
                    break;
                }
                on = next;
            }
            if on >= when {
                return Err(unsupported("condition-place", "ON of a MERGE whose place can't be found").into());
            }
            self.filter_target(scan, ConditionOf::Merge(target.location), condition, Some(on), when)?;
        }
        let filtered = target
            .scan
            .and_then(|s| self.scans.get(s))
            .is_some_and(|s| s.filter.is_some());
        for clause in t.list("merge_when_clauses") {
            // 2: WHEN NOT MATCHED BY SOURCE, which hidden rows would be.
            if clause.int("match_kind") == 2 && filtered {
                return Err(unsupported(
                    "merge-by-source",
                    "WHEN NOT MATCHED BY SOURCE on a relation with hidden rows",
                )
                .into());
            }
            // What is in reach: both, the target alone (2), the source alone (3).
            let target_alone = level_of(&target);
            let source_alone = Level {
                items: level.items.first().cloned().into_iter().collect(),
            };
            let level = match clause.int("match_kind") {
                2 => &target_alone,
                3 => &source_alone,
                _ => &level,
            };
            self.expression(clause.field("condition"), level, env)?;
            // CmdType 4: INSERT; 3: UPDATE. DELETE and DO NOTHING assign nothing.
            if clause.int("command_type") == INSERT {
                self.merge_insert(clause, &target, level, env)?;
            } else {
                self.assignments(clause.list("target_list"), &target, level, env)?;
            }
        }
        self.returning(t, &target, level, (before, after), env, carry)
    }

    fn merge_insert(&mut self, clause: &Tree, target: &Target, level: &Level, env: Env<'_>) -> Result<(), Stop> {
        let listed: Vec<Assigned> = if clause.list("target_list").is_empty() {
            target.columns.clone()
        } else {
            let mut listed = Vec::new();
            for column in clause.list("target_list") {
                self.indirection(column, env)?;
                listed.push(self.assigned(target, column.text("name"))?);
            }
            listed
        };
        for (index, value) in clause.list("values").iter().enumerate() {
            let flow = self.flow(value, level, env)?;
            let Some(column) = listed.get(index) else { continue };
            if value.kind() != "SetToDefault" {
                self.may_insert(column)?;
            }
            self.launder(column, &flow.taint)?;
        }
        Ok(())
    }

    /// Subscripts of an assigned column hold expressions.
    fn indirection(&mut self, column: &Tree, env: Env<'_>) -> Result<(), Stop> {
        for part in column.list("indirection") {
            self.expression(part, &Level::default(), env)?;
        }
        Ok(())
    }

    /// The relation that is modified, as a name in scope.
    fn target(&mut self, t: &Tree) -> Result<Target, Stop> {
        let place = || unsupported("relation-place", "a relation without a place in the text");
        let location = t.location().ok_or_else(place)?;
        self.seen.insert(location);
        let (database, schema, name) = (t.text("catalogname"), t.text("schemaname"), t.text("relname"));
        let catalog = self.look.catalog();
        if !database.is_empty() && database != catalog.database {
            return Err(unsupported("cross-database", "cross-database references are not implemented").into());
        }
        let schema = (!schema.is_empty()).then_some(schema);
        let Some(relation) = catalog.resolve(schema, name, self.look.path()) else {
            return Err(missing(schema, name));
        };
        self.look.modifies(relation)?;
        let alias = t.field("alias");
        let shown = if alias.is_null() { name } else { alias.text("aliasname") }.to_owned();
        let schema = alias.is_null().then(|| relation.name.schema.clone());
        let (span, only) = self.relation_span(location).ok_or_else(place)?;
        let index = self
            .parsed
            .tokens
            .partition_point(|k| usize::try_from(k.start).is_ok_and(|s| s < span.1));
        let Some(protected) = self.look.protected(relation)? else {
            let columns = relation.columns.iter().map(|c| OutColumn {
                name: Some(c.name.clone()),
                taint: Taint::new(),
                identity: None,
            });
            let mut named = plain_named(&shown, columns.collect());
            named.schema = schema;
            let columns = relation.columns.iter().map(|c| Assigned {
                name: c.name.clone(),
                class: None,
                masked: None,
                atom: None,
            });
            return Ok(Target {
                named,
                scan: None,
                index,
                location,
                columns: columns.collect(),
            });
        };
        let treated = self.look.treat(&protected)?;
        let id = self.scans.len();
        let thread = self.thread();
        let mut columns = Vec::new();
        let mut assigned = Vec::new();
        for (position, column) in protected.columns.iter().enumerate() {
            let atom = Atom {
                scan: id,
                attnum: column.column.attnum,
            };
            let treatment = treated.treatments.get(position).and_then(Option::as_ref);
            columns.push(OutColumn {
                name: Some(column.column.name.clone()),
                taint: if column.sources.is_empty() {
                    Taint::new()
                } else {
                    Taint::from([atom])
                },
                identity: Some(atom),
            });
            assigned.push(Assigned {
                name: column.column.name.clone(),
                class: treatment.map(|t| t.class.clone()),
                masked: treatment.filter(|t| t.kind != Kind::Clear).cloned(),
                atom: Some(atom),
            });
        }
        let keys = protected
            .keys
            .iter()
            .enumerate()
            .filter_map(|(index, key)| {
                Some(KeyRef {
                    key: (id, index),
                    column: key.column.clone()?,
                    shape: KeyShape::One,
                    fresh: true,
                    nullable: !key.not_null,
                })
            })
            .collect();
        let packed = protected.keys.iter().any(|k| k.many && k.column.is_none());
        self.scans.push(Scan {
            treatments: treated.treatments,
            replaced: false,
            target: true,
            restricted: treated.replaced,
            span,
            only: only || !t.flag("inh"),
            aliased: !alias.is_null(),
            alias: shown.clone(),
            system: BTreeSet::new(),
            extra: Vec::new(),
            shown: BTreeSet::new(),
            simple: false,
            table_keyword: None,
            filter: treated.filter,
            frame: self.frame,
            location,
            protected: Arc::clone(&protected),
        });
        let named = Named {
            alias: shown,
            schema,
            columns,
            keys,
            scan: Some(id),
            threads: vec![thread],
            carries: false,
            hidden: Vec::new(),
            packed,
            restricted: false,
        };
        Ok(Target {
            named,
            scan: Some(id),
            index,
            location,
            columns: assigned,
        })
    }

    fn assigned(&self, target: &Target, name: &str) -> Result<Assigned, Stop> {
        target.columns.iter().find(|c| c.name == name).cloned().ok_or_else(|| {
            Refusal {
                sqlstate: "42703",
                ..unsupported(
                    "column-unknown",
                    format!(
                        "column \"{name}\" of relation \"{}\" does not exist",
                        target.named.alias
                    ),
                )
            }
            .into()
        })
    }

    /// `SET` lists.
    fn assignments(&mut self, list: &[Tree], target: &Target, level: &Level, env: Env<'_>) -> Result<(), Stop> {
        let mut several: Option<(Flow, Vec<Taint>)> = None;
        for element in list {
            let column = self.assigned(target, element.text("name"))?;
            for part in element.list("indirection") {
                self.expression(part, level, env)?;
            }
            let value = element.field("val");
            let taint = match value.kind() {
                // `(a, b) = source`: every element holds the source; its places are read once.
                "MultiAssignRef" => {
                    let number = usize::try_from(value.int("colno")).unwrap_or(0);
                    if number == 1 {
                        several = Some(self.several(value.field("source"), level, env)?);
                    }
                    let (all, each) = several.as_ref().ok_or_else(|| unknown_node("MultiAssignRef"))?;
                    match number.checked_sub(1).and_then(|n| each.get(n)) {
                        Some(taint) => taint.clone(),
                        None => all.taint.clone(),
                    }
                }
                _ => self.flow(value, level, env)?.taint,
            };
            self.may_assign(&column, element, target)?;
            self.launder(&column, &taint)?;
        }
        Ok(())
    }

    /// What each value of a source of several columns derives from: all of it, and by place where the places are plain.
    fn several(&mut self, source: &Tree, level: &Level, env: Env<'_>) -> Result<(Flow, Vec<Taint>), Stop> {
        if source.kind() == "RowExpr" {
            let mut all = Flow::default();
            let mut each = Vec::new();
            for value in source.list("args") {
                let flow = self.flow(value, level, env)?;
                each.push(flow.taint.clone());
                all.add(flow);
            }
            return Ok((all, each));
        }
        Ok((self.flow(source, level, env)?, Vec::new()))
    }

    /// Promise 6: who sees a mask can't write it over the value.
    fn may_assign(&mut self, column: &Assigned, element: &Tree, target: &Target) -> Result<(), Stop> {
        let Some(treatment) = &column.masked else { return Ok(()) };
        if !treatment.write {
            return Err(Refusal::denied(
                "write-masked-column",
                format!(
                    "permission denied to assign column \"{}\": you see it masked ({}), and would write over what you do not see",
                    column.name, treatment.rule
                ),
                "name only the columns that you change (an ORM: dynamic updates), or ask the owners of the policy for `write`",
            )
            .into());
        }
        let value = element.field("val");
        if value.kind() == "SetToDefault" || treatment.kind == Kind::Deny {
            return Ok(());
        }
        let plain = value.kind() != "MultiAssignRef" && element.list("indirection").is_empty();
        let (Some(atom), Some(at), true) = (column.atom, element.location(), plain) else {
            return Err(unsupported(
                "write-masked-column-form",
                format!(
                    "an assignment to the masked column \"{}\" other than column = value",
                    column.name
                ),
            )
            .into());
        };
        let place = || unsupported("value-place", "an assigned value whose place can't be found");
        let first = self.parsed.token_at(at).ok_or_else(place)?;
        let equals = self.find_token(first, &[Token::Ascii61]);
        let end = self.find_token(
            equals + 1,
            &[Token::Ascii44, Token::From, Token::Where, Token::Returning, Token::When],
        );
        let start = self.parsed.token(equals + 1).ok_or_else(place)?.start;
        let last = end
            .checked_sub(1)
            .and_then(|i| self.parsed.token(i))
            .ok_or_else(place)?
            .end;
        let column = Part::Column {
            scan: atom.scan,
            attnum: atom.attnum,
            alias: target.named.alias.clone(),
        };
        self.change(start, last, What::Keep { target: at, column });
        Ok(())
    }

    /// Whether a new row may hold a value in this column.
    fn may_insert(&self, column: &Assigned) -> Result<(), Stop> {
        let Some(treatment) = &column.masked else { return Ok(()) };
        if treatment.write || self.look.may_insert_masked() {
            return Ok(());
        }
        Err(Refusal::denied(
            "insert-masked-column",
            format!(
                "permission denied to insert into column \"{}\": you see it masked ({})",
                column.name, treatment.rule
            ),
            "the policy says insert_masked = \"deny\"; ask its owners for `write`",
        )
        .into())
    }

    /// Clear protected values may go to columns of their own class only.
    fn launder(&self, column: &Assigned, taint: &Taint) -> Result<(), Stop> {
        for atom in taint {
            let Some(treatment) = self.treatment(*atom) else {
                continue;
            };
            let same = column.class.as_ref() == Some(&treatment.class);
            if treatment.kind == Kind::Clear && !same && !treatment.derive {
                return Err(self.laundering(*atom, &format!("column \"{}\"", column.name)).into());
            }
        }
        Ok(())
    }

    /// `table.column`, for people.
    pub(super) fn column_name(&self, atom: Atom) -> String {
        self.scans.get(atom.scan).map_or_else(String::new, |s| {
            let column = s.protected.column(atom.attnum).map_or("", |c| c.column.name.as_str());
            format!("{}.{column}", s.protected.name.name)
        })
    }

    /// The refusal for storing clear protected values where nothing protects them.
    pub(crate) fn laundering(&self, atom: Atom, whereto: &str) -> Refusal {
        let name = self.column_name(atom);
        Refusal::denied(
            "laundering",
            format!(
                "permission denied to store clear values of \"{name}\" in {whereto}, where the policy does not protect them"
            ),
            "store masked or unclassified columns only, or ask the owners of the policy for `derive`",
        )
    }

    fn returning(
        &mut self,
        t: &Tree,
        target: &Target,
        mut level: Level,
        own: (usize, usize),
        env: Env<'_>,
        carry: Carry,
    ) -> Result<Output, Stop> {
        let clause = t.field("returning_clause");
        if clause.is_null() || clause.list("exprs").is_empty() {
            return Ok(Output::default());
        }
        // PostgreSQL 18: `old` and `new`, or the names that RETURNING WITH gives them.
        let mut names = vec!["old".to_owned(), "new".to_owned()];
        names.extend(clause.list("options").iter().map(|o| o.text("value").to_owned()));
        for name in names {
            if !level.named().any(|n| n.alias == name) {
                let other = Named {
                    alias: name,
                    schema: None,
                    keys: Vec::new(),
                    ..target.named.clone()
                };
                level.items.push(Item {
                    star: Vec::new(),
                    named: vec![other],
                });
            }
        }
        let shape = Shape {
            grouped: false,
            distinct: false,
            plain: false,
        };
        self.outputs(clause, &level, &shape, own, env, carry, &[])
    }
}

/// `CmdType` of PostgreSQL as `pg_query` numbers it.
const INSERT: i64 = 4;

fn level_of(target: &Target) -> Level {
    Level {
        items: vec![Item {
            star: target.named.columns.clone(),
            named: vec![target.named.clone()],
        }],
    }
}

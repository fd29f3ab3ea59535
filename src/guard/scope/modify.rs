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

/// What a column was given.
struct Assignment {
    name: String,
    taint: Taint,
    loose: Loose,
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
        let conditions = std::mem::take(&mut self.conditions);
        let asked = std::mem::take(&mut self.asked);
        let output = self.with(t, env, |walk, env| match t.kind() {
            "InsertStmt" => walk.insert(t, env, carry),
            "UpdateStmt" => walk.update(t, env, carry),
            "DeleteStmt" => walk.delete(t, env, carry),
            "MergeStmt" => walk.merge(t, env, carry),
            kind => Err(unknown_node(kind).into()),
        });
        self.conditions = conditions;
        self.asked = asked;
        output
    }

    fn update(&mut self, t: &Tree, env: Env<'_>, carry: Carry) -> Result<Output, Stop> {
        let mut target = self.target(t.field("relation"))?;
        let mut level = level_of(&target);
        for item in t.list("from_clause") {
            let made = self.entry(item, env, &level, false, false)?;
            level.items.push(made);
        }
        let given = self.assignments(t.list("target_list"), &target, &level, env, None)?;
        let condition = t.field("where_clause");
        self.condition(condition, &level, env)?;
        let set = self.find_token(target.index, &[Token::Set]);
        self.where_filter(
            &target,
            condition,
            set,
            ConditionOf::Modification(target.location),
            &[Token::Where, Token::Returning],
        )?;
        hand_on(&mut target, &mut level, &given);
        self.returning(t, &target, level, env, carry)
    }

    fn delete(&mut self, t: &Tree, env: Env<'_>, carry: Carry) -> Result<Output, Stop> {
        let target = self.target(t.field("relation"))?;
        let mut level = level_of(&target);
        for item in t.list("using_clause") {
            let made = self.entry(item, env, &level, false, false)?;
            level.items.push(made);
        }
        let condition = t.field("where_clause");
        self.condition(condition, &level, env)?;
        self.where_filter(
            &target,
            condition,
            target.index,
            ConditionOf::Modification(target.location),
            &[Token::Where, Token::Returning],
        )?;
        self.returning(t, &target, level, env, carry)
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
        let mut loose = Loose::default();
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
                let kept = |atom: Atom| {
                    regular
                        && given.is_some_and(|g| g.identity == Some(atom))
                        && self.keeps_person(column, atom, &target, &columns, &output)
                };
                self.launder(column, &taint, &kept)?;
                flows.push(taint);
            }
            loose = output.loose;
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
        let mut given: Vec<Assignment> = excluded
            .iter()
            .filter_map(|c| {
                Some(Assignment {
                    name: c.name.clone()?,
                    taint: c.taint.clone(),
                    loose: Loose::default(),
                })
            })
            .collect();
        if let Some(first) = given.first_mut() {
            // Those of the whole row.
            first.loose = loose.clone();
        }
        let mut level = level_of(&target);
        let conflict = t.field("on_conflict_clause");
        let assigned = if conflict.is_null() {
            Vec::new()
        } else {
            self.conflict(conflict, &target, &level, (excluded, &loose), env)?
        };
        hand_on_values(&mut target, &mut level, &given);
        hand_on(&mut target, &mut level, &assigned);
        self.returning(t, &target, level, env, carry)
    }

    /// Whether a value of another row is stored with that row's person: then it counts as that person's as before.
    fn keeps_person(
        &self,
        column: &Assigned,
        atom: Atom,
        target: &Target,
        columns: &[Assigned],
        source: &Output,
    ) -> bool {
        let key = self.key_of(atom);
        let from = self.scans.get(key.0).and_then(|s| {
            let person = s.protected.keys.get(key.1)?;
            let name = person.column.as_ref()?;
            let column = s.protected.columns.iter().find(|c| c.column.name == *name)?;
            Some((Arc::clone(&person.space), column.column.attnum))
        });
        let to = self.person_of(column, target);
        let (Some((space, attnum)), Some((name, own_space))) = (from, to) else {
            return false;
        };
        let named = Atom {
            scan: atom.scan,
            attnum,
        };
        let place = columns.iter().position(|c| c.name == name);
        let same_row = source.loose.get(key) == Some(Many::AtMost(1));
        space == own_space
            && same_row
            && place
                .and_then(|p| source.columns.get(p))
                .is_some_and(|c| c.identity == Some(named))
    }

    /// Name and space of the column of the target that names the person of another of its columns.
    fn person_of(&self, column: &Assigned, target: &Target) -> Option<(String, Arc<str>)> {
        let scan = self.scans.get(target.scan?)?;
        let key = scan.protected.column(column.atom?.attnum)?.key;
        let person = scan.protected.keys.get(key)?;
        Some((person.column.clone()?, Arc::clone(&person.space)))
    }

    fn conflict(
        &mut self,
        conflict: &Tree,
        target: &Target,
        level: &Level,
        (excluded, people): (Vec<OutColumn>, &Loose),
        env: Env<'_>,
    ) -> Result<Vec<Assignment>, Stop> {
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
            return Ok(Vec::new());
        }
        let mut both = level.clone();
        let inserted = union(&excluded);
        let mut named = plain_named("excluded", excluded);
        named.loose = people.clone();
        both.items.push(Item {
            star: Vec::new(),
            named: vec![named],
        });
        let by: Vec<String> = infer
            .list("index_elems")
            .iter()
            .map(|element| element.text("name").to_owned())
            .collect();
        let given = self.assignments(conflict.list("target_list"), target, &both, env, Some((&inserted, &by)))?;
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
        )?;
        Ok(given)
    }

    fn merge(&mut self, t: &Tree, env: Env<'_>, carry: Carry) -> Result<Output, Stop> {
        let mut target = self.target(t.field("relation"))?;
        let mut level = level_of(&target);
        let source = self.entry(t.field("source_relation"), env, &level, false, false)?;
        // RETURNING * gives the source's columns first.
        level.items.insert(0, source);
        let condition = t.field("join_condition");
        self.condition(condition, &level, env)?;
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
        let (mut inserted, mut assigned) = (Vec::new(), Vec::new());
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
                inserted.extend(self.merge_insert(clause, &target, level, env)?);
            } else {
                assigned.extend(self.assignments(clause.list("target_list"), &target, level, env, None)?);
            }
        }
        hand_on_values(&mut target, &mut level, &inserted);
        hand_on(&mut target, &mut level, &assigned);
        self.returning(t, &target, level, env, carry)
    }

    fn merge_insert(
        &mut self,
        clause: &Tree,
        target: &Target,
        level: &Level,
        env: Env<'_>,
    ) -> Result<Vec<Assignment>, Stop> {
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
        let mut given = Vec::new();
        for (index, value) in clause.list("values").iter().enumerate() {
            let flow = self.flow(value, level, env)?;
            let Some(column) = listed.get(index) else { continue };
            if value.kind() != "SetToDefault" {
                self.may_insert(column)?;
            }
            self.launder(column, &flow.taint, &|_| false)?;
            given.push(Assignment {
                name: column.name.clone(),
                taint: flow.taint,
                loose: flow.loose,
            });
        }
        Ok(given)
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
        let (mut keys, mut loose) = (Vec::new(), Loose::default());
        for (index, key) in protected.keys.iter().enumerate() {
            match &key.column {
                Some(column) => keys.push(KeyRef {
                    key: (id, index),
                    column: column.clone(),
                    shape: KeyShape::One,
                    fresh: true,
                    nullable: !key.not_null,
                }),
                None => loose.add((id, index), key.most),
            }
        }
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
            late: BTreeSet::new(),
            simple: false,
            table_keyword: None,
            filter: treated.filter,
            frame: self.frame,
            location,
            sample: None,
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
            loose,
            rows: Taint::new(),
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
            let refusal = Refusal {
                sqlstate: "42703",
                ..unsupported(
                    "column-unknown",
                    format!(
                        "column \"{name}\" of relation \"{}\" does not exist",
                        target.named.alias
                    ),
                )
            };
            Stop::Missing(name.to_owned(), refusal)
        })
    }

    /// `SET` lists. `conflict`: what was to be inserted derives from this, and met a row with the same values in these columns.
    fn assignments(
        &mut self,
        list: &[Tree],
        target: &Target,
        level: &Level,
        env: Env<'_>,
        conflict: Option<(&Taint, &[String])>,
    ) -> Result<Vec<Assignment>, Stop> {
        let mut several: Option<(Flow, Vec<Flow>)> = None;
        let mut given = Vec::new();
        for element in list {
            let column = self.assigned(target, element.text("name"))?;
            for part in element.list("indirection") {
                self.expression(part, level, env)?;
            }
            let value = element.field("val");
            let flow = match value.kind() {
                // `(a, b) = source`: every element holds the source; its places are read once.
                "MultiAssignRef" => {
                    let number = usize::try_from(value.int("colno")).unwrap_or(0);
                    if number == 1 {
                        several = Some(self.several(value.field("source"), level, env)?);
                    }
                    let (all, each) = several.as_ref().ok_or_else(|| unknown_node("MultiAssignRef"))?;
                    match number.checked_sub(1).and_then(|n| each.get(n)) {
                        Some(flow) => flow.clone(),
                        None => all.clone(),
                    }
                }
                _ => self.flow(value, level, env)?,
            };
            self.may_assign(&column, element, target)?;
            let kept = |atom: Atom| {
                let person = self.person_of(&column, target);
                let same_person = |(_, by): (&Taint, &[String])| person.is_some_and(|(name, _)| by.contains(&name));
                // The row's own value; or that of the row that was to be inserted for the same person, who was judged then.
                target.scan == Some(atom.scan)
                    || flow.loose.is_empty() && conflict.is_some_and(|c| c.0.contains(&atom) && same_person(c))
            };
            self.launder(&column, &flow.taint, &kept)?;
            let itself = flow.identity.is_some() && flow.identity == column.atom;
            if !itself {
                self.may_rekey(&column, target)?;
                given.push(Assignment {
                    name: column.name.clone(),
                    taint: flow.taint,
                    loose: flow.loose,
                });
            }
        }
        Ok(given)
    }

    /// Clear values count as their person's: who sees them may not make them somebody else's without `derive`.
    fn may_rekey(&self, column: &Assigned, target: &Target) -> Result<(), Stop> {
        let Some(scan) = target.scan.and_then(|s| self.scans.get(s)) else {
            return Ok(());
        };
        for (value, treatment) in scan.protected.columns.iter().zip(&scan.treatments) {
            let named = scan.protected.keys.get(value.key).and_then(|k| k.column.as_ref());
            let Some(treatment) = treatment else { continue };
            if named == Some(&column.name)
                && treatment.kind == Kind::Clear
                && !treatment.counts.is_empty()
                && !treatment.derive
            {
                return Err(Refusal::denied(
                    "person-changed",
                    format!(
                        "permission denied to assign column \"{}\", which tells whose \"{}\" a row holds: you see that clear, and it would count as another person's",
                        column.name, value.column.name
                    ),
                    "leave the column out of SET, or ask the owners of the policy for `derive`",
                )
                .into());
            }
        }
        Ok(())
    }

    /// What each value of a source of several columns derives from: all of it, and by place where the places are plain.
    fn several(&mut self, source: &Tree, level: &Level, env: Env<'_>) -> Result<(Flow, Vec<Flow>), Stop> {
        if source.kind() == "RowExpr" {
            let mut all = Flow::default();
            let mut each = Vec::new();
            for value in source.list("args") {
                let flow = self.flow(value, level, env)?;
                each.push(flow.clone());
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

    /// Clear protected values may go to columns of their own class only, and only where they are `kept` with their person.
    fn launder(&self, column: &Assigned, taint: &Taint, kept: &dyn Fn(Atom) -> bool) -> Result<(), Stop> {
        for atom in taint {
            let Some(treatment) = self.treatment(*atom) else {
                continue;
            };
            let same = column.class.as_ref() == Some(&treatment.class) && (treatment.counts.is_empty() || kept(*atom));
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
            grouping_sets: false,
            distinct: false,
            plain: false,
        };
        self.outputs(clause, &level, &shape, env, carry, &[])
    }
}

/// `CmdType` of PostgreSQL as `pg_query` numbers it.
const INSERT: i64 = 4;

/// The target's columns hold, from now on, what they were given: RETURNING shows that. Where the person's column was assigned, it names
/// another person than the row's other values are about.
fn hand_on(target: &mut Target, level: &mut Level, given: &[Assignment]) {
    let named = &mut target.named;
    for (key, column) in named
        .keys
        .iter()
        .map(|k| (k.key, k.column.clone()))
        .filter(|(_, column)| given.iter().any(|g| g.name == *column))
        .collect::<Vec<_>>()
    {
        named.keys.retain(|k| k.key != key || k.column != column);
        named.loose.add(key, Many::AtMost(1));
    }
    hand_on_values(target, level, given);
}

/// As `hand_on`, for new rows: their person's column names whom the row is about.
fn hand_on_values(target: &mut Target, level: &mut Level, given: &[Assignment]) {
    let named = &mut target.named;
    for one in given {
        for column in named.columns.iter_mut().filter(|c| c.name.as_ref() == Some(&one.name)) {
            column.taint.extend(one.taint.iter().copied());
        }
        named.loose.extend(&one.loose);
    }
    for item in &mut level.items {
        let own = item
            .named
            .iter_mut()
            .find(|n| n.alias == target.named.alias && n.scan == target.named.scan);
        if let Some(own) = own {
            own.clone_from(&target.named);
            item.star.clone_from(&target.named.columns);
            return;
        }
    }
}

fn level_of(target: &Target) -> Level {
    Level {
        items: vec![Item {
            star: target.named.columns.clone(),
            named: vec![target.named.clone()],
        }],
    }
}

//! Carrying people up: hidden columns of a level, lifted over grouping and DISTINCT, and copies of sub-queries in expressions.

use super::*;

impl Walk<'_> {
    /// Adds hidden columns that carry the people shown by this level.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one query level; a struct would only rename them"
    )]
    pub(super) fn carry(
        &mut self,
        t: &Tree,
        level: &Level,
        shape: &Shape,
        shown: &BTreeSet<(ScanId, usize)>,
        parts: &ListParts<'_>,
        stars: &[(&Tree, Option<String>)],
        env: Env<'_>,
        output: &mut Output,
    ) -> Result<(), Stop> {
        // Columns that flow through a star stand in the row already.
        let flowing: Vec<Hidden> = level
            .named()
            .filter(|n| stars.iter().any(|(_, q)| q.as_ref().is_none_or(|q| *q == n.alias)))
            .flat_map(|n| n.hidden.clone())
            .collect();
        if self.at_end && self.depth <= 1 && !flowing.is_empty() {
            let threads: Vec<usize> = level
                .named()
                .filter(|n| n.carries)
                .flat_map(|n| n.threads.clone())
                .collect();
            return Err(self.no_thread(&threads));
        }
        let mut names = HashSet::new();
        for hidden in &flowing {
            if !names.insert(hidden.name.clone()) {
                let threads: Vec<usize> = level.named().flat_map(|n| n.threads.clone()).collect();
                return Err(self.no_thread(&threads));
            }
        }
        let partition = if shape.distinct {
            Some(self.partition(t, level)?)
        } else {
            None
        };
        let mut additions: Vec<(String, KeyShape, (ScanId, usize))> = Vec::new();
        for key in shown {
            let found = self.people_of_rows(
                level,
                shape,
                *key,
                parts,
                partition.as_deref(),
                &flowing,
                &mut additions,
            )?;
            // Whoever is in nobody's row here is in that of a level around this one, or in a sub-query.
            let elsewhere = env.outer.is_some() || parts.loose.get(*key).is_some();
            let by_window = || parts.windows.iter().any(|w| w.loose.get(*key).is_some());
            if !found && !elsewhere && !by_window() {
                return Err(unmeterable().into());
            }
        }
        for call in &parts.windows {
            for (key, many) in call.loose.iter() {
                let people = counted(many, shape, None)?;
                additions.push(if call.is_one() {
                    (people.0, people.1, key)
                } else {
                    self.window_addition(call, people, key)?
                });
            }
        }
        output.flowing = flowing.len();
        output.hidden.extend(flowing);
        let Some((at, anchor)) = self.end_of_targets(t) else {
            return Err(unsupported("target-list", "a select list whose end can't be found").into());
        };
        for (text, key_shape, key) in additions {
            self.add_hidden(at, anchor, Addition::Text(text), key_shape, key, output);
        }
        for sublink in &parts.sublinks {
            self.people_of_query(sublink, level, shape, env, (at, anchor), output)?;
        }
        Ok(())
    }

    /// Hidden columns for the people of one key in the rows of this level's FROM. Says whether it holds any.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one query level; a struct would only rename them"
    )]
    fn people_of_rows(
        &self,
        level: &Level,
        shape: &Shape,
        key: (ScanId, usize),
        parts: &ListParts<'_>,
        partition: Option<&str>,
        flowing: &[Hidden],
        additions: &mut Vec<(String, KeyShape, (ScanId, usize))>,
    ) -> Result<bool, Stop> {
        let direct = self.has_key(&parts.direct, key) || parts.compared.contains(&key);
        let calls: Vec<&WindowCall> = parts.windows.iter().filter(|w| self.has_key(&w.taint, key)).collect();
        let mut found = false;
        for named in level.named() {
            for reference in named.keys.iter().filter(|r| r.key == key) {
                found = true;
                let through_star = flowing.iter().any(|h| h.name == reference.column && !reference.fresh);
                if direct && !(through_star && !shape.grouped && !shape.distinct) {
                    let (text, key_shape) = lift(named, reference, shape, partition);
                    additions.push((text, key_shape, key));
                }
                for call in &calls {
                    additions.push(self.window_addition(call, lift(named, reference, shape, None), key)?);
                }
            }
            if !self.has_key(&named.rows, key) && !named.columns.iter().any(|c| self.has_key(&c.taint, key)) {
                continue;
            }
            if let Some(many) = named.loose.get(key) {
                found = true;
                if direct {
                    let (text, key_shape) = counted(many, shape, partition)?;
                    additions.push((text, key_shape, key));
                }
                for call in &calls {
                    additions.push(self.window_addition(call, counted(many, shape, None)?, key)?);
                }
            }
        }
        Ok(found)
    }

    fn window_addition(
        &self,
        call: &WindowCall,
        (people, shape): (String, KeyShape),
        key: (ScanId, usize),
    ) -> Result<(String, KeyShape, (ScanId, usize)), Stop> {
        let (text, shape) = self.over_window(call, &people, shape).ok_or_else(unmeterable)?;
        Ok((text, shape, key))
    }

    /// Hidden columns for the people of a sub-query in an output expression.
    fn people_of_query(
        &mut self,
        sublink: &SubUse<'_>,
        level: &Level,
        shape: &Shape,
        env: Env<'_>,
        (at, anchor): (usize, Anchor),
        output: &mut Output,
    ) -> Result<(), Stop> {
        let inside = sublink
            .tree
            .location()
            .and_then(|at| self.inside.get(&(self.frame, at)).cloned());
        // Without a place it can't have been kept: then its people are not known.
        let inside = inside.ok_or_else(unmeterable)?;
        if inside.is_empty() || sublink.place == Place::Window {
            return Ok(());
        }
        if shape.distinct {
            return Err(unmeterable().into());
        }
        if sublink.place == Place::Plain
            && let Some(people) = self.copy_people(sublink.tree, level, env)?
        {
            let carried: BTreeSet<(ScanId, usize)> = people.iter().map(|p| p.2).collect();
            if inside.iter().any(|(key, _)| !carried.contains(&key)) {
                return Err(unmeterable().into());
            }
            for (addition, key_shape, key) in people {
                self.add_hidden(at, anchor, addition, key_shape, key, output);
            }
            return Ok(());
        }
        for (key, many) in inside.iter() {
            let grouped = shape.grouped && sublink.place == Place::Aggregate;
            let rows = Shape {
                grouped,
                grouping_sets: false,
                distinct: false,
                plain: false,
            };
            let (text, key_shape) = counted(many, &rows, None)?;
            self.add_hidden(at, anchor, Addition::Text(text), key_shape, key, output);
        }
        Ok(())
    }

    /// Hidden columns for the people of a sub-query that says which rows there are, or stands in an output expression as a truth value.
    /// Where it can't be asked again for its people, each row counts as one.
    pub(super) fn people_asked(
        &mut self,
        t: &Tree,
        asked: Asked,
        level: &Level,
        shape: &Shape,
        env: Env<'_>,
        output: &mut Output,
    ) -> Result<(), Stop> {
        let (at, anchor) = self
            .end_of_targets(t)
            .ok_or_else(|| unsupported("target-list", "a select list whose end can't be found"))?;
        let keys = self.keys_of(&asked.rows);
        output.rows.extend(asked.rows);
        let again = !asked.correlated || !shape.grouped && !shape.distinct;
        let people = if again {
            match self.copy_people(&asked.tree, level, env) {
                Err(Stop::Refuse(_)) => None,
                people => people?,
            }
        } else {
            None
        };
        if let Some(people) = people
            && keys.iter().all(|k| people.iter().any(|p| p.2 == *k))
        {
            for (addition, key_shape, key) in people {
                self.add_hidden(at, anchor, addition, key_shape, key, output);
            }
            return Ok(());
        }
        let partition = if shape.distinct {
            Some(self.partition(t, level)?)
        } else {
            None
        };
        for key in keys {
            let (text, key_shape) = counted(Many::AtMost(1), shape, partition.as_deref())?;
            self.add_hidden(at, anchor, Addition::Text(text), key_shape, key, output);
        }
        Ok(())
    }

    pub(super) fn add_hidden(
        &mut self,
        at: usize,
        anchor: Anchor,
        expression: Addition,
        shape: KeyShape,
        key: (ScanId, usize),
        output: &mut Output,
    ) {
        let name = self.hidden_name();
        self.inserts.push(Insert {
            at,
            expression,
            name: name.clone(),
            anchor,
            frame: self.frame,
        });
        output.hidden.push(Hidden { name, shape, key });
    }

    pub(super) fn hidden_name(&mut self) -> String {
        self.next_hidden += 1;
        format!("{HIDDEN_PREFIX}{}", self.next_hidden)
    }

    /// People of a sub-query in an output expression: hidden columns computed over a copy of it; none where the copy might give other rows.
    pub(super) fn copy_people(
        &mut self,
        sublink: &Tree,
        level: &Level,
        env: Env<'_>,
    ) -> Result<Option<Vec<Carried>>, Stop> {
        let select = sublink.field("subselect");
        let range = sublink.location().and_then(|at| self.parenthesised(at));
        let (Some(range), true) = (range, self.repeats(select)) else {
            return Ok(None);
        };
        let saved = self.frame;
        let (conditions, kept) = (self.conditions.clone(), std::mem::take(&mut self.asked));
        self.frames += 1;
        let frame = self.frames;
        self.frame = frame;
        let outer = Outer {
            level,
            parent: env.outer,
        };
        let inner = self.select(
            select,
            Env {
                ctes: env.ctes,
                outer: Some(&outer),
            },
            Carry::Yes,
            false,
        );
        self.frame = saved;
        self.conditions = conditions;
        self.asked = kept;
        let inner = match inner {
            Ok(inner) if inner.loose.is_empty() => inner,
            Ok(_) => return Ok(None),
            Err(Stop::Refuse(refusal)) if refusal.rule == "cannot-be-metered" => return Ok(None),
            Err(stop) => return Err(stop),
        };
        let mut people = Vec::new();
        for hidden in inner.hidden {
            let Some(scan) = self.scans.get(hidden.key.0) else {
                return Err(unmeterable().into());
            };
            let (span, own) = (scan.span, scan.frame == frame);
            // The copy's scans are other scans of the same text: the people are those of the original.
            let original = if own {
                self.scans.iter().position(|s| s.frame == saved && s.span == span)
            } else {
                Some(hidden.key.0)
            };
            let Some(original) = original else {
                return Err(unmeterable().into());
            };
            let shape = if hidden.shape == KeyShape::Count {
                KeyShape::Count
            } else {
                KeyShape::List
            };
            let addition = Addition::Copy {
                range,
                frame,
                name: hidden.name,
                shape: hidden.shape,
            };
            people.push((addition, shape, (original, hidden.key.1)));
        }
        Ok(Some(people))
    }

    /// The bytes inside the parentheses of a sub-query, from its place: they begin there, or behind ARRAY, EXISTS, [NOT] IN, or an
    /// operator with ANY, SOME or ALL.
    pub(super) fn parenthesised(&self, at: usize) -> Option<(usize, usize)> {
        use pg_query::protobuf::Token;
        let mut index = self.parsed.token_at(at)?;
        let mut token = self.parsed.token(index)?;
        for _ in 0..3 {
            if matches!(token.kind, Token::Ascii40 | Token::Operator) {
                break;
            }
            index += 1;
            token = self.parsed.token(index)?;
        }
        if token.kind != Token::Ascii40 {
            return None;
        }
        let start = token.end;
        let mut depth = 1_usize;
        while depth > 0 {
            index += 1;
            token = self.parsed.token(index)?;
            match token.kind {
                Token::Ascii40 => depth += 1,
                Token::Ascii41 => depth -= 1,
                _ => {}
            }
        }
        Some((start, token.start))
    }

    /// Where the target list ends, and the anchor that names it in the tree.
    pub(super) fn end_of_targets(&self, t: &Tree) -> Option<(usize, Anchor)> {
        use pg_query::protobuf::Token;
        let last = targets(t).last()?;
        let Some(start) = last.location() else {
            let relation = t.list("from_clause").first()?.location()?;
            return Some((relation, Anchor::Table(relation)));
        };
        let mut index = self.parsed.token_at(start)?;
        let mut depth = 0_usize;
        let mut end = start;
        let mut previous: Option<Token> = None;
        let mut before: Option<Token> = None;
        while let Some(token) = self.parsed.token(index) {
            let label = previous == Some(Token::As) || previous == Some(Token::Ascii46);
            if depth == 0 && index != self.parsed.token_at(start)? && !label {
                let distinct_from = token.kind == Token::From
                    && previous == Some(Token::Distinct)
                    && matches!(before, Some(Token::Is | Token::Not));
                let within_group = token.kind == Token::GroupP
                    && self
                        .parsed
                        .token(index.checked_sub(1)?)
                        .is_some_and(|t| self.parsed.slice(t.start, t.end).eq_ignore_ascii_case("within"));
                let ends = matches!(
                    token.kind,
                    Token::Ascii41
                        | Token::Ascii44
                        | Token::Ascii59
                        | Token::Ascii93
                        | Token::From
                        | Token::Where
                        | Token::GroupP
                        | Token::Having
                        | Token::Window
                        | Token::Union
                        | Token::Intersect
                        | Token::Except
                        | Token::Order
                        | Token::Limit
                        | Token::Offset
                        | Token::Fetch
                        | Token::For
                        | Token::Into
                );
                if ends && !distinct_from && !within_group {
                    break;
                }
            }
            match token.kind {
                Token::Ascii40 | Token::Ascii91 => depth += 1,
                Token::Ascii41 | Token::Ascii93 => depth = depth.checked_sub(1)?,
                _ => {}
            }
            end = token.end;
            before = previous;
            previous = Some(token.kind);
            index += 1;
        }
        Some((end, Anchor::Last(start)))
    }

    /// `PARTITION BY` list over the output columns of a DISTINCT level: rows that DISTINCT folds into one share a window.
    pub(super) fn partition(&self, t: &Tree, level: &Level) -> Result<String, Stop> {
        use pg_query::protobuf::Token;
        let mut parts: Vec<String> = Vec::new();
        let targets = targets(t);
        for (i, target) in targets.iter().enumerate() {
            let value = target.field("val");
            if let Some(qualifier) = star_of(value) {
                parts.extend(star_names(level, level, qualifier.last()).ok_or_else(unmeterable)?);
                continue;
            }
            let start = target.location().ok_or_else(unmeterable)?;
            let next = match targets.get(i + 1) {
                Some(next) => next.location().ok_or_else(unmeterable)?,
                None => self.end_of_targets(t).ok_or_else(unmeterable)?.0,
            };
            let first = self.parsed.token_at(start).ok_or_else(unmeterable)?;
            let mut tokens: Vec<crate::guard::parse::Tok> = (first..)
                .map_while(|k| self.parsed.token(k))
                .take_while(|k| k.start < next)
                .collect();
            if targets.get(i + 1).is_some() {
                tokens.pop(); // the comma
            }
            if !target.text("name").is_empty() {
                tokens.pop(); // the label
                if tokens.last().is_some_and(|k| k.kind == Token::As) {
                    tokens.pop();
                }
            }
            let end = tokens.last().ok_or_else(unmeterable)?.end;
            if matches!(value.kind(), "AConst" | "ParamRef") {
                continue; // the same in every row; a bare number would not mean itself here
            }
            parts.push(format!("({})", self.parsed.slice(start, end)));
            let mut odd = false;
            value.walk(&mut |n| {
                odd |= n.kind() == "SubLink" || n.kind() == "ColumnRef" && n.list("fields").len() > 2;
                odd |= n.kind() == "FuncCall"
                    && (n
                        .names("funcname")
                        .and_then(|mut f| f.pop())
                        .is_none_or(|f| expression::is_volatile(&f))
                        || !n.field("over").is_null());
                !odd
            });
            if odd {
                return Err(unmeterable().into());
            }
        }
        if parts.is_empty() {
            parts.push("1::pg_catalog.int4".to_owned());
        }
        Ok(parts.join(", "))
    }
}

/// A hidden column that counts people without a key: so many for each row of FROM.
fn counted(many: Many, shape: &Shape, partition: Option<&str>) -> Result<(String, KeyShape), Stop> {
    let Many::AtMost(people) = many else {
        return Err(unmeterable().into());
    };
    let text = match (partition, shape.grouped) {
        (Some(by), false) => {
            format!("({people} * pg_catalog.count(*) OVER (PARTITION BY {by}))::pg_catalog.text")
        }
        (Some(by), true) => {
            format!("({people} * pg_catalog.sum(pg_catalog.count(*)) OVER (PARTITION BY {by}))::pg_catalog.text")
        }
        (None, true) => format!("({people} * pg_catalog.count(*))::pg_catalog.text"),
        (None, false) => format!("'{people}'::pg_catalog.text"),
    };
    Ok((text, KeyShape::Count))
}

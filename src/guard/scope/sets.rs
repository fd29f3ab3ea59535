//! Set operations and VALUES.

use super::*;

impl Walk<'_> {
    pub(super) fn set_operation(&mut self, t: &Tree, env: Env<'_>, carry: Carry) -> Result<Output, Stop> {
        let thread = self.thread();
        let mut leaves = Vec::new();
        let all = union_all_leaves(t, &mut leaves);
        let threadable = all && carry == Carry::Yes && self.look.metered() && !self.unthreaded.contains(&thread);
        let output = if threadable {
            self.union_all(&leaves, env, thread)?
        } else {
            let left = self.select(t.field("larg"), env, Carry::No, false)?;
            let right = self.select(t.field("rarg"), env, Carry::No, false)?;
            let columns = side_by_side(left.columns, &right.columns);
            let mut loose = left.loose;
            loose.extend(&right.loose);
            Output {
                columns,
                hidden: Vec::new(),
                loose,
                rows: left.rows.union(&right.rows).copied().collect(),
                compared: Vec::new(),
                restricted: left.restricted || right.restricted,
                plain: false,
                flowing: 0,
            }
        };
        let level = Level {
            items: vec![Item {
                star: output.columns.clone(),
                named: Vec::new(),
            }],
        };
        for part in t.list("sort_clause") {
            self.expression(part, &level, env)?;
        }
        for part in ["limit_offset", "limit_count"] {
            self.expression(t.field(part), &Level::default(), env)?;
        }
        self.ordinals(t, &output)?;
        Ok(output)
    }

    /// UNION ALL keeps rows apart, so each branch can carry its people, with NULL in the places of the others.
    pub(super) fn union_all(&mut self, leaves: &[&Tree], env: Env<'_>, thread: usize) -> Result<Output, Stop> {
        let mut outputs: Vec<(Output, usize)> = Vec::new();
        for leaf in leaves {
            let before = self.inserts.len();
            let output = self.select(leaf, env, Carry::Yes, false)?;
            if output.flowing > 0 {
                return Err(self.no_thread(&[thread]));
            }
            outputs.push((output, before));
        }
        let total: usize = outputs.iter().map(|(o, _)| o.hidden.len()).sum();
        let mut hidden: Vec<Hidden> = Vec::new();
        if total > 0 {
            let ends: Option<Vec<(usize, Anchor)>> = leaves.iter().map(|l| self.end_of_targets(l)).collect();
            let Some(ends) = ends else {
                return Err(self.no_thread(&[thread]));
            };
            if leaves.iter().any(|l| !l.list("values_lists").is_empty()) {
                return Err(self.no_thread(&[thread]));
            }
            let lists: Vec<Vec<Hidden>> = outputs.iter().map(|(o, _)| o.hidden.clone()).collect();
            let mut rebuilt: Vec<Insert> = Vec::new();
            let first_before = outputs.first().map_or(self.inserts.len(), |(_, b)| *b);
            let own: Vec<Insert> = self.inserts.split_off(first_before);
            // Inserts of levels below a branch stay; those of the branch's own list are put in line.
            let (mine, below): (Vec<Insert>, Vec<Insert>) = own
                .into_iter()
                .partition(|i| ends.iter().any(|(_, a)| *a == i.anchor && i.frame == self.frame));
            rebuilt.extend(below);
            for (leaf, (at, anchor)) in ends.iter().enumerate() {
                for (other, list) in lists.iter().enumerate() {
                    for h in list {
                        let insert = if other == leaf {
                            mine.iter().find(|i| i.name == h.name).cloned()
                        } else {
                            Some(Insert {
                                at: *at,
                                expression: Addition::Text("NULL::pg_catalog.text".to_owned()),
                                name: self.hidden_name(),
                                anchor: *anchor,
                                frame: self.frame,
                            })
                        };
                        let Some(insert) = insert else {
                            return Err(self.no_thread(&[thread]));
                        };
                        if leaf == 0 {
                            hidden.push(Hidden {
                                name: insert.name.clone(),
                                shape: h.shape,
                                key: h.key,
                            });
                        }
                        rebuilt.push(insert);
                    }
                }
            }
            self.inserts.extend(rebuilt);
        }
        let mut loose = Loose::default();
        outputs.iter().for_each(|(o, _)| loose.extend(&o.loose));
        let rows = outputs.iter().flat_map(|(o, _)| o.rows.iter().copied()).collect();
        let restricted = outputs.iter().any(|(o, _)| o.restricted);
        let mut parts = outputs.into_iter().map(|(o, _)| o.columns);
        let mut columns = parts.next().unwrap_or_default();
        for more in parts {
            columns = side_by_side(columns, &more);
        }
        Ok(Output {
            columns,
            hidden,
            loose,
            rows,
            compared: Vec::new(),
            restricted,
            plain: false,
            flowing: 0,
        })
    }

    pub(super) fn values(&mut self, t: &Tree, env: Env<'_>) -> Result<Output, Stop> {
        let mut columns: Vec<OutColumn> = Vec::new();
        let mut loose = Loose::default();
        let around = std::mem::take(&mut self.asked);
        for row in t.list("values_lists") {
            for (i, value) in row.list("items").iter().enumerate() {
                let flow = self.flow(value, &Level::default(), env)?;
                loose.extend(&flow.loose);
                match columns.get_mut(i) {
                    Some(column) => column.taint.extend(flow.taint),
                    None => columns.push(OutColumn {
                        name: Some(format!("column{}", i + 1)),
                        taint: flow.taint,
                        identity: None,
                    }),
                }
            }
        }
        for part in ["limit_offset", "limit_count"] {
            self.expression(t.field(part), &Level::default(), env)?;
        }
        for part in t.list("sort_clause") {
            self.expression(part, &Level::default(), env)?;
        }
        let mut rows = Taint::new();
        for one in std::mem::replace(&mut self.asked, around) {
            for key in self.keys_of(&one.rows) {
                loose.add(key, Many::AtMost(1));
            }
            rows.extend(one.rows);
        }
        Ok(Output {
            columns,
            hidden: Vec::new(),
            loose,
            rows,
            compared: Vec::new(),
            restricted: false,
            plain: false,
            flowing: 0,
        })
    }
}

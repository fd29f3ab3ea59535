//! Which relations are protected, from the policy and the catalog: tables the policy names, their partitions, children and
//! parents, and views over any of them, with the class that each column inherits (DESIGN §4).
//!
//! A view's column that *is* a classified column keeps its class; one that is computed from classified columns is
//! masked whole unless all of them are clear. What can't be read is opaque: refused to whoever has anything masked.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::KnownColumns;
use super::parse::{self, Parsed};
use super::protected::{FilterSource, PersonKey, Protected, ProtectedColumn, Source};
use super::scope::{Given, Lookup, Many, People, Stop, Treated, Walk};
use super::tree::Tree;
use crate::catalog::{Catalog, Oid, Relation, RelationKind, RelationName};
use crate::policy::{Policy, TableRule, UNCLASSIFIED};
use crate::wire::Refusal;

/// All protected relations by oid.
#[must_use]
pub fn protected_relations(policy: &Policy, catalog: &Catalog, known: &KnownColumns) -> HashMap<Oid, Arc<Protected>> {
    let maker = Maker {
        policy,
        catalog,
        known,
        done: RefCell::new(HashMap::new()),
        open: RefCell::new(BTreeSet::new()),
    };
    let mut oids: Vec<Oid> = catalog.relations.keys().copied().collect();
    oids.sort_unstable();
    for oid in oids {
        if let Some(relation) = catalog.relations.get(&oid) {
            maker.of(relation);
        }
    }
    maker
        .done
        .into_inner()
        .into_iter()
        .filter_map(|(oid, p)| Some((oid, p?)))
        .collect()
}

struct Maker<'m> {
    policy: &'m Policy,
    catalog: &'m Catalog,
    known: &'m KnownColumns,
    done: RefCell<HashMap<Oid, Option<Arc<Protected>>>>,
    open: RefCell<BTreeSet<Oid>>,
}

impl Maker<'_> {
    fn of(&self, relation: &Relation) -> Option<Arc<Protected>> {
        if let Some(known) = self.done.borrow().get(&relation.oid) {
            return known.clone();
        }
        if !self.open.borrow_mut().insert(relation.oid) {
            return None; // PostgreSQL has no cyclic views
        }
        let made = match relation.kind {
            RelationKind::View | RelationKind::MaterializedView => self.view(relation),
            RelationKind::Table | RelationKind::PartitionedTable | RelationKind::ForeignTable => self.table(relation),
            RelationKind::Sequence | RelationKind::Toast | RelationKind::CompositeType => None,
        };
        let made = made.map(Arc::new);
        self.open.borrow_mut().remove(&relation.oid);
        self.done.borrow_mut().insert(relation.oid, made.clone());
        made
    }

    /// Relations connected by inheritance or partitioning: they show each other's rows.
    fn family(&self, relation: &Relation) -> (Vec<Oid>, BTreeSet<Oid>) {
        let up = self.closure(relation.oid, |r| &r.parents);
        let down = self.closure(relation.oid, |r| &r.children);
        let mut all: Vec<Oid> = vec![relation.oid];
        all.extend(up.iter().chain(&down).filter(|o| **o != relation.oid));
        (all, down)
    }

    fn closure(&self, start: Oid, next: impl Fn(&Relation) -> &Vec<Oid>) -> BTreeSet<Oid> {
        let mut found = BTreeSet::new();
        let mut queue = vec![start];
        while let Some(oid) = queue.pop() {
            for other in self.catalog.relations.get(&oid).map(&next).into_iter().flatten() {
                if found.insert(*other) {
                    queue.push(*other);
                }
            }
        }
        found
    }

    fn table(&self, relation: &Relation) -> Option<Protected> {
        let (family, below) = self.family(relation);
        let rules: Vec<(&RelationName, &TableRule, bool)> = family
            .iter()
            .filter_map(|oid| {
                let name = &self.catalog.relations.get(oid)?.name;
                Some((
                    name,
                    self.policy.tables.get(name)?,
                    below.contains(oid) && *oid != relation.oid,
                ))
            })
            .collect();
        let (_, first, _) = rules.first()?;
        let person = rules
            .iter()
            .find_map(|(_, rule, _)| rule.person.clone().filter(|p| relation.column(p).is_some()));
        let not_null = person
            .as_ref()
            .and_then(|p| relation.column(p))
            .is_some_and(|c| c.not_null);
        let key = PersonKey {
            space: Arc::from(format!("{}.{}", first.of.schema, first.of.name)),
            column: person,
            not_null,
            most: Many::AtMost(1),
        };
        let class_of = |column: &str| {
            rules.iter().find_map(|(name, rule, _)| {
                Some(Source {
                    class: rule.columns.get(column)?.clone(),
                    relation: (*name).clone(),
                    column: column.to_owned(),
                })
            })
        };
        let columns = relation
            .columns
            .iter()
            .map(|column| {
                let classified = class_of(&column.name);
                let identity = classified.is_some() || column.generation.is_none();
                // What is computed of classified columns shows them, whether somebody has looked at it or not.
                let sources = match (classified, &column.generation) {
                    (Some(own), _) => vec![own],
                    (None, Some(expression)) => {
                        let computed_of = named_in(expression, relation).filter_map(class_of);
                        computed_of.chain(self.unclassified(&rules, &column.name)).collect()
                    }
                    (None, None) => self.unclassified(&rules, &column.name).into_iter().collect(),
                };
                ProtectedColumn {
                    column: column.clone(),
                    sources,
                    identity,
                    key: 0,
                }
            })
            .collect();
        let own: BTreeMap<String, String> = relation
            .columns
            .iter()
            .map(|c| (c.name.clone(), c.name.clone()))
            .collect();
        let filters = rules
            .iter()
            .map(|(name, _, below)| FilterSource {
                relation: (*name).clone(),
                // A filter on a child alone can't be put on its parent, which has the rows of other children too.
                columns: (!below).then(|| own.clone()),
            })
            .collect();
        Some(Protected {
            oid: relation.oid,
            name: relation.name.clone(),
            columns,
            keys: vec![key],
            filters,
            opaque: None,
        })
    }

    /// A column that nobody has classified, by the rule nearest to the relation.
    fn unclassified(&self, rules: &[(&RelationName, &TableRule, bool)], column: &str) -> Option<Source> {
        let (name, _, _) = rules.first()?;
        // Where a relation that has the column lists its plain ones, no parent's or child's mere knowing it counts.
        let listed = rules.iter().any(|(name, rule, _)| {
            let relation = self.catalog.relation(&name.schema, &name.name);
            rule.plain.is_some() && relation.is_some_and(|r| r.column(column).is_some())
        });
        let looked_at = |name: &RelationName, rule: &TableRule| {
            let plain = match &rule.plain {
                Some(plain) => plain.contains(column),
                None => !listed && self.known.get(name).is_none_or(|k| k.contains(column)),
            };
            plain || rule.person.as_deref() == Some(column)
        };
        if rules.iter().any(|(n, r, _)| looked_at(n, r)) {
            return None;
        }
        Some(Source {
            class: UNCLASSIFIED.to_owned(),
            relation: (*name).clone(),
            column: column.to_owned(),
        })
    }

    fn view(&self, relation: &Relation) -> Option<Protected> {
        let own = self.policy.tables.get(&relation.name);
        let derived = match &relation.view_definition {
            None => Err(Vec::new()),
            Some(text) => self.definition(relation, text),
        };
        let mut made = match derived {
            Ok(made) => made,
            Err(reached) => {
                // A definition that can't be followed: everything it reaches may be in every column.
                if reached.is_empty() {
                    None
                } else {
                    Some(self.blurred(relation, &reached))
                }
            }
        };
        if let Some(rule) = own {
            // The policy classifies the view's own columns: that stands beside what they inherit.
            let protected = made.get_or_insert_with(|| self.bare(relation));
            let index = protected.keys.len();
            protected.keys.push(PersonKey {
                space: Arc::from(format!("{}.{}", rule.of.schema, rule.of.name)),
                column: rule.person.clone().filter(|p| relation.column(p).is_some()),
                not_null: false,
                most: Many::AtMost(1),
            });
            for column in &mut protected.columns {
                if let Some(class) = rule.columns.get(&column.column.name) {
                    column.sources = vec![Source {
                        class: class.clone(),
                        relation: relation.name.clone(),
                        column: column.column.name.clone(),
                    }];
                    column.identity = true;
                    column.key = index;
                }
            }
            let all = relation
                .columns
                .iter()
                .map(|c| (c.name.clone(), c.name.clone()))
                .collect();
            protected.filters.push(FilterSource {
                relation: relation.name.clone(),
                columns: Some(all),
            });
        }
        made
    }

    fn bare(&self, relation: &Relation) -> Protected {
        Protected {
            oid: relation.oid,
            name: relation.name.clone(),
            columns: relation
                .columns
                .iter()
                .map(|c| ProtectedColumn {
                    column: c.clone(),
                    sources: Vec::new(),
                    identity: false,
                    key: 0,
                })
                .collect(),
            keys: Vec::new(),
            filters: Vec::new(),
            opaque: None,
        }
    }

    fn blurred(&self, relation: &Relation, reached: &[Arc<Protected>]) -> Protected {
        let mut protected = self.bare(relation);
        let mut sources: Vec<Source> = reached
            .iter()
            .flat_map(|p| p.columns.iter().flat_map(|c| c.sources.clone()))
            .collect();
        sources.sort();
        sources.dedup();
        for column in &mut protected.columns {
            column.sources.clone_from(&sources);
        }
        protected.keys.push(PersonKey {
            space: Arc::from("?"),
            column: None,
            not_null: false,
            most: Many::Any,
        });
        protected.filters = reached
            .iter()
            .flat_map(|p| {
                p.filters.iter().map(|f| FilterSource {
                    relation: f.relation.clone(),
                    columns: None,
                })
            })
            .collect();
        protected.opaque = Some("its definition is in a form that Menshen cannot follow".to_owned());
        protected
    }

    /// The lineage of a view. `Err` holds the protected relations it reaches where the definition can't be followed.
    fn definition(&self, relation: &Relation, text: &str) -> Result<Option<Protected>, Vec<Arc<Protected>>> {
        let parsed = parse::parse(text).map_err(|_| Vec::new())?;
        let [statement] = parsed.statements.as_slice() else {
            return Err(Vec::new());
        };
        let select = statement.field("stmt");
        let reached = self.reached(&parsed);
        if reached.is_empty() {
            return Ok(None);
        }
        match Walk::query(self, &parsed, select, People::No) {
            Ok((walk, output)) => Ok(Some(self.derive(relation, &walk, &output))),
            Err(Stop::Refuse(_) | Stop::Missing(..) | Stop::Again) => Err(reached),
        }
    }

    /// Protected relations named anywhere in a definition (CTE names that hide one only add to it).
    fn reached(&self, parsed: &Parsed) -> Vec<Arc<Protected>> {
        let mut reached = Vec::new();
        for statement in &parsed.statements {
            statement.walk(&mut |n| {
                if n.kind() == "RangeVar" {
                    let schema = n.text("schemaname");
                    let schema = (!schema.is_empty()).then_some(schema);
                    if let Some(found) = self.catalog.resolve(schema, n.text("relname"), self.path())
                        && let Some(protected) = self.of(found)
                    {
                        reached.push(protected);
                    }
                }
                true
            });
        }
        reached
    }

    fn derive(&self, relation: &Relation, walk: &Walk<'_>, output: &super::scope::Output) -> Protected {
        let mut protected = self.bare(relation);
        let regular =
            output.columns.len() == protected.columns.len() && output.columns.iter().all(|c| c.name.is_some());
        let everything: super::scope::Taint = output.columns.iter().flat_map(|c| c.taint.iter().copied()).collect();
        // One key per scan and person of the scan; a view column that is the scan's person column names it.
        let mut keys: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        // Columns that mix people of several scans or keys.
        let mut mixed: Vec<(usize, BTreeSet<(usize, usize)>)> = Vec::new();
        for (index, column) in protected.columns.iter_mut().enumerate() {
            let out = if regular { output.columns.get(index) } else { None };
            let taint = out.map_or(&everything, |o| &o.taint);
            let mut own_keys = BTreeSet::new();
            for atom in taint {
                let Some(scan) = walk.scans.get(atom.scan) else {
                    continue;
                };
                let Some(base) = scan.protected.column(atom.attnum) else {
                    continue;
                };
                column.sources.extend(base.sources.iter().cloned());
                column.identity = out.is_some_and(|o| o.identity == Some(*atom)) && base.identity;
                let next = keys.len();
                column.key = *keys.entry((atom.scan, base.key)).or_insert(next);
                own_keys.insert((atom.scan, base.key));
            }
            if own_keys.len() > 1 {
                mixed.push((index, own_keys));
            }
            column.sources.sort();
            column.sources.dedup();
            if taint.len() > 1 {
                column.identity = false;
            }
        }
        let mut ordered: Vec<((usize, usize), usize)> = keys.into_iter().collect();
        ordered.sort_by_key(|(_, index)| *index);
        for ((scan_id, key_index), _) in ordered {
            let scan = walk.scans.get(scan_id);
            let base = scan.and_then(|s| s.protected.keys.get(key_index));
            let person = base.and_then(|k| k.column.as_ref()).and_then(|name| {
                let attnum = scan?
                    .protected
                    .columns
                    .iter()
                    .find(|c| c.column.name == *name)?
                    .column
                    .attnum;
                let place = output
                    .columns
                    .iter()
                    .position(|o| o.identity == Some(super::scope::Atom { scan: scan_id, attnum }))?;
                regular.then(|| relation.columns.get(place).map(|c| c.name.clone()))?
            });
            // The person's column names whoever a row shows where that is one person.
            let most = output.loose.get((scan_id, key_index)).unwrap_or(Many::Any);
            protected.keys.push(PersonKey {
                space: base.map_or_else(|| Arc::from("?"), |k| Arc::clone(&k.space)),
                column: person.filter(|_| most == Many::AtMost(1)),
                not_null: false,
                most,
            });
        }
        for (index, own) in mixed {
            let most = own
                .iter()
                .map(|key| output.loose.get(*key).unwrap_or(Many::Any))
                .fold(Many::AtMost(0), Many::plus);
            let space = protected
                .columns
                .get(index)
                .and_then(|c| protected.keys.get(c.key))
                .map_or_else(|| Arc::from("?"), |k| Arc::clone(&k.space));
            if let Some(column) = protected.columns.get_mut(index) {
                column.key = protected.keys.len();
            }
            protected.keys.push(PersonKey {
                space,
                column: None,
                not_null: false,
                most,
            });
        }
        for (id, scan) in walk.scans.iter().enumerate() {
            for filter in &scan.protected.filters {
                let columns = match (&filter.columns, scan.simple && output.plain && regular) {
                    (Some(map), true) => Some(
                        map.iter()
                            .filter_map(|(base, own)| {
                                let attnum = scan
                                    .protected
                                    .columns
                                    .iter()
                                    .find(|c| c.column.name == *own)?
                                    .column
                                    .attnum;
                                let place = output
                                    .columns
                                    .iter()
                                    .position(|o| o.identity == Some(super::scope::Atom { scan: id, attnum }))?;
                                Some((base.clone(), relation.columns.get(place)?.name.clone()))
                            })
                            .collect(),
                    ),
                    (Some(_), false) | (None, _) => None,
                };
                protected.filters.push(FilterSource {
                    relation: filter.relation.clone(),
                    columns,
                });
            }
            if let Some(reason) = &scan.protected.opaque {
                protected.opaque = Some(reason.clone());
            }
        }
        protected
    }
}

/// Columns of a relation that the expression of a generated column names; all, where it can't be read.
fn named_in<'r>(expression: &str, relation: &'r Relation) -> impl Iterator<Item = &'r str> {
    let mut named: Option<BTreeSet<String>> = None;
    if let Ok(parsed) = parse::parse(&format!("SELECT {expression}")) {
        let mut found = BTreeSet::new();
        let mut whole = false;
        for statement in &parsed.statements {
            statement.walk(&mut |n| {
                if n.kind() == "ColumnRef" {
                    let fields = n.names("fields").unwrap_or_default();
                    whole |= fields.iter().any(|f| f == "*" || *f == relation.name.name);
                    found.extend(fields);
                }
                true
            });
        }
        named = (!whole).then_some(found);
    }
    relation
        .columns
        .iter()
        .map(|c| c.name.as_str())
        .filter(move |name| named.as_ref().is_none_or(|n| n.contains(*name)))
}

impl Lookup for Maker<'_> {
    fn catalog(&self) -> &Catalog {
        self.catalog
    }
    fn path(&self) -> &[String] {
        // Definitions are printed under an empty search_path: only pg_catalog goes unqualified.
        static PATH: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| vec!["pg_catalog".to_owned()]);
        &PATH
    }
    fn protected(&self, relation: &Relation) -> Result<Option<Arc<Protected>>, Refusal> {
        Ok(self.of(relation))
    }
    fn treat(&self, _: &Arc<Protected>) -> Result<Treated, Refusal> {
        Ok(Treated::default())
    }
    fn keeps(&self, _: Given<'_>) -> bool {
        false
    }

    fn function(&self, _: &[String], _: &Tree) -> Result<(), Refusal> {
        Ok(())
    }
    fn metered(&self) -> bool {
        false
    }
    fn modifies(&self, _: &Relation) -> Result<(), Refusal> {
        Ok(())
    }
    fn may_insert_masked(&self) -> bool {
        true
    }
    fn min_group(&self) -> Option<u32> {
        None
    }
}

//! The walk, the edit and its verification over many shapes of query, without a server.

use std::sync::Arc;

use super::scope::{Lookup, Output, People, Stop, Treated, Walk};
use super::tree::Tree;
use super::{edit, parse, protected, verify};
use crate::catalog::{Catalog, Column, Relation, RelationKind, RelationName};
use crate::ledger::Categories;
use crate::mask::TokenSettings;
use crate::policy::MaskSpec;
use crate::wire::Refusal;
use protected::{ColumnTreatment, Kind, PersonKey, Protected, ProtectedColumn, Source};

fn relation(oid: u32, name: &str, columns: &[(&str, &str)]) -> Relation {
    Relation {
        oid,
        name: RelationName {
            schema: "crm".into(),
            name: name.into(),
        },
        kind: RelationKind::Table,
        temporary: false,
        columns: columns
            .iter()
            .enumerate()
            .map(|(i, (name, ty))| Column {
                attnum: i16::try_from(i + 1).unwrap(),
                name: (*name).into(),
                type_oid: 25,
                type_sql: (*ty).into(),
                base_type_sql: (*ty).into(),
                base_type_oid: 25,
                category: 'S',
                not_null: *name == "id" || *name == "customer_id",
                generation: None,
                assign_type_sql: (*ty).into(),
            })
            .collect(),
        view_definition: None,
        parents: vec![],
        children: vec![],
        rules: vec![],
        code: vec![],
    }
}

fn catalog() -> Catalog {
    let mut catalog = Catalog {
        database: "shop".into(),
        ..Default::default()
    };
    for r in [
        relation(
            1,
            "customers",
            &[
                ("id", "bigint"),
                ("name", "text"),
                ("id_card", "text"),
                ("phone", "text"),
                ("email", "text"),
                ("address", "text"),
                ("birth", "date"),
                ("grade", "text"),
                ("city", "text"),
                ("created_at", "timestamptz"),
            ],
        ),
        relation(
            2,
            "messages",
            &[
                ("id", "bigint"),
                ("customer_id", "bigint"),
                ("sent_at", "timestamptz"),
                ("body", "text"),
            ],
        ),
        relation(
            3,
            "orders",
            &[
                ("id", "bigint"),
                ("customer_id", "bigint"),
                ("item", "text"),
                ("total", "numeric"),
                ("status", "text"),
                ("at", "timestamptz"),
            ],
        ),
        relation(4, "products", &[("id", "int"), ("name", "text"), ("price", "numeric")]),
    ] {
        catalog
            .by_name
            .entry("crm".into())
            .or_default()
            .insert(r.name.name.clone(), r.oid);
        catalog.relations.insert(r.oid, r);
    }
    catalog
}

struct Look {
    catalog: Catalog,
    path: Vec<String>,
    /// Classified columns are clear and counted, else masked and not counted.
    clear: bool,
}

impl Lookup for Look {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }
    fn path(&self) -> &[String] {
        &self.path
    }
    fn protected(&self, relation: &Relation) -> Result<Option<Arc<Protected>>, Refusal> {
        let (classified, person): (&[&str], &str) = match relation.name.name.as_str() {
            "customers" => (&["name", "id_card", "phone", "email", "address", "birth"], "id"),
            "messages" => (&["body"], "customer_id"),
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Protected {
            oid: relation.oid,
            name: relation.name.clone(),
            columns: relation
                .columns
                .iter()
                .map(|c| ProtectedColumn {
                    column: c.clone(),
                    sources: if classified.contains(&c.name.as_str()) {
                        vec![Source {
                            class: c.name.clone(),
                            relation: relation.name.clone(),
                            column: c.name.clone(),
                        }]
                    } else {
                        vec![]
                    },
                    identity: true,
                    key: 0,
                })
                .collect(),
            keys: vec![PersonKey {
                space: "crm.customers".into(),
                column: Some(person.into()),
                not_null: true,
                many: false,
            }],
            filters: vec![],
            opaque: None,
        })))
    }
    fn treat(&self, protected: &Arc<Protected>) -> Result<Treated, Refusal> {
        Ok(Treated {
            treatments: protected
                .columns
                .iter()
                .map(|c| {
                    (!c.sources.is_empty()).then(|| ColumnTreatment {
                        kind: if self.clear {
                            Kind::Clear
                        } else {
                            Kind::Mask(MaskSpec::Null)
                        },
                        rule: "test".into(),
                        class: c.column.name.clone(),
                        write: false,
                        derive: false,
                        counts: if self.clear { Categories(1) } else { Categories::NONE },
                    })
                })
                .collect(),
            // With a filter so that clear scans are replaced too.
            replaced: true,
            filter: Some(("test".into(), "\"grade\" IS NOT NULL".into()))
                .filter(|_| protected.name.name == "customers"),
        })
    }
    fn function(&self, _: &[String], _: &Tree) -> Result<(), Refusal> {
        Ok(())
    }
    fn modifies(&self, _: &Relation) -> Result<(), Refusal> {
        Ok(())
    }
    fn may_insert_masked(&self) -> bool {
        true
    }
    fn metered(&self) -> bool {
        true
    }
}

fn look(clear: bool) -> Look {
    Look {
        catalog: catalog(),
        path: vec!["pg_catalog".into(), "crm".into()],
        clear,
    }
}

/// Edited text, hidden columns, number of scans.
type Edited = (String, Vec<(String, crate::meter::KeyShape)>, usize);

fn edited(look: &Look, sql: &str) -> Result<Edited, String> {
    let parsed = parse::parse(sql).map_err(|r| format!("{r}"))?;
    let statement = &parsed.statements[0];
    let (walk, output): (Walk<'_>, Output) = Walk::query(look, &parsed, statement.field("stmt"), People::Named)
        .map_err(|s| match s {
            Stop::Refuse(r) => format!("{r}"),
            Stop::Missing(name, _) => format!("missing {name}"),
            Stop::Again => "again".to_owned(),
        })?;
    let token = TokenSettings {
        inner: "menshen.ki".into(),
        outer: "menshen.ko".into(),
    };
    let edit = edit::edit(&parsed, &walk, &token, true, (0, sql.len())).map_err(|r| format!("{r}"))?;
    if !edit.intents.is_empty() {
        verify::verify(statement.field("stmt"), &edit.text, &edit.intents)
            .map_err(|r| format!("{r}\n    {}", edit.text))?;
    }
    Ok((
        edit.text,
        output.hidden.into_iter().map(|h| (h.name, h.shape)).collect(),
        walk.scans.len(),
    ))
}

const SHAPES: &str = include_str!("shapes.sql");

#[test]
fn every_shape_is_edited_and_its_edit_is_verified() {
    let mut failures = Vec::new();
    for clear in [false, true] {
        let look = look(clear);
        let mut out = String::new();
        for line in SHAPES.lines().filter(|l| !l.trim().is_empty() && !l.starts_with("--")) {
            match edited(&look, line) {
                Ok((text, hidden, scans)) => {
                    out.push_str(&format!("{text};\n"));
                    if clear && hidden.is_empty() && !line.contains("/* uncounted */") {
                        failures.push(format!("no people carried ({scans} scans): {line}\n    {text}"));
                    }
                }
                Err(why) => failures.push(format!("clear={clear}: {line}\n    {why}")),
            }
        }
        if let Ok(dir) = std::env::var("MENSHEN_SHAPES_OUT") {
            std::fs::write(format!("{dir}/shapes-{clear}.sql"), out).unwrap();
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures.join("\n")
    );
}

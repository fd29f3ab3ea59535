//! A policy against a live catalog: what `menshen check --config` tells.

use std::path::Path;

use crate::catalog::{Catalog, RelationKind};
use crate::mask::{self, TokenSettings};
use crate::policy::reader::did_you_mean;
use crate::policy::{Policy, Problem, Severity};

/// Parts of column names that tell of personal data: Chinese, pinyin, English. A name that has one and is not classified gets a
/// warning.
const TELLING: [&str; 40] = [
    "sfz",
    "idcard",
    "id_card",
    "id_no",
    "cert_no",
    "passport",
    "ssn",
    "身份证",
    "证件",
    "phone",
    "mobile",
    "tel",
    "sjh",
    "shouji",
    "手机",
    "电话",
    "email",
    "mail",
    "邮箱",
    "address",
    "addr",
    "dizhi",
    "地址",
    "住址",
    "real_name",
    "cust_name",
    "xingming",
    "姓名",
    "birth",
    "csrq",
    "出生",
    "card_no",
    "bank",
    "yhk",
    "银行",
    "salary",
    "latitude",
    "longitude",
    "diagnosis",
    "password",
];

/// Checks relations, columns, person columns and masks' types; warns of unclassified columns that look sensitive.
#[must_use]
pub fn check(file: &Path, policy: &Policy, catalog: &Catalog) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut say = |line: u32, severity: Severity, message: String, suggestion: Option<String>| {
        problems.push(Problem {
            line,
            column: 1,
            severity,
            suggestion,
            ..Problem::of_file(file, message)
        });
    };
    let token = TokenSettings {
        inner: "menshen.k".to_owned(),
        outer: "menshen.k".to_owned(),
    };
    for (name, rule) in &policy.tables {
        let dotted = format!("{}.{}", name.schema, name.name);
        let Some(relation) = catalog.relation(&name.schema, &name.name) else {
            let names: Vec<String> = catalog
                .relations
                .values()
                .filter(|r| !matches!(r.kind, RelationKind::Sequence | RelationKind::Toast))
                .map(|r| format!("{}.{}", r.name.schema, r.name.name))
                .collect();
            let near = did_you_mean(&dotted, names.iter().map(String::as_str));
            say(
                rule.line,
                Severity::Error,
                format!("table `{dotted}` is not in database `{}`", catalog.database),
                near,
            );
            continue;
        };
        let columns = || relation.columns.iter().map(|c| c.name.as_str());
        if let Some(person) = &rule.person
            && relation.column(person).is_none()
        {
            say(
                rule.line,
                Severity::Error,
                format!("person column `{person}` is not in `{dotted}`"),
                did_you_mean(person, columns()),
            );
        }
        for (column, class) in &rule.columns {
            let line = rule.column_lines.get(column).copied().unwrap_or(rule.line);
            let Some(found) = relation.column(column) else {
                say(
                    line,
                    Severity::Error,
                    format!("column `{column}` is not in `{dotted}`"),
                    did_you_mean(column, columns()),
                );
                continue;
            };
            if let Some(class) = policy.classes.get(class)
                && let Err(unfit) = mask::expression(&class.mask, found, "m.x", &token)
            {
                say(
                    line,
                    Severity::Error,
                    format!("column `{dotted}.{column}`: {unfit}"),
                    None,
                );
            }
        }
        for column in &relation.columns {
            let lower = column.name.to_lowercase();
            let telling = TELLING.iter().any(|t| lower.contains(t));
            if telling && !rule.columns.contains_key(&column.name) && rule.person.as_ref() != Some(&column.name) {
                say(
                    rule.line,
                    Severity::Warning,
                    format!(
                        "column `{dotted}.{}` looks sensitive and is not classified",
                        column.name
                    ),
                    None,
                );
            }
        }
    }
    problems
}

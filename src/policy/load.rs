//! Reading a policy file. Every mistake is found before anything is said.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use globset::{Glob, GlobMatcher};
use regex::Regex;

use super::hours::Hours;
use super::reader::{Placed, Reader, Section, did_you_mean};
use super::{
    Class, Compare, Grant, InsertMasked, Limit, MaskSpec, Policy, Problem, Purpose, Role, Sanction, Scope, TableRule,
    Unclassified, UnknownLogins,
};
use crate::catalog::RelationName;

/// Most bytes of a policy file.
const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

impl Policy {
    /// Reads and resolves a policy file. Returns it with its warnings.
    ///
    /// # Errors
    /// Every mistake of the file at once.
    pub fn load(path: &Path, epoch: u64) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| vec![Problem::of_file(path, format!("cannot read the policy: {e}"))])?;
        Self::parse(path, &text, epoch)
    }

    /// The same from text; `path` is only named in problems.
    ///
    /// # Errors
    /// Every mistake of the text at once.
    pub fn parse(path: &Path, text: &str, epoch: u64) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        if text.len() > FILE_BYTES_MAX {
            return Err(vec![Problem::of_file(
                path,
                format!("policy is longer than {FILE_BYTES_MAX} bytes"),
            )]);
        }
        let mut reader = Reader::new(path, text);
        let Some(table) = reader.parse() else {
            return Err(reader.problems);
        };
        let policy = read(&mut reader, &Section::root(&table), epoch);
        if reader.failed() {
            Err(reader.problems)
        } else {
            Ok((policy, reader.problems))
        }
    }
}

fn read<'t>(reader: &mut Reader<'t>, root: &Section<'t>, epoch: u64) -> Policy {
    reader.known(
        root,
        &[
            "version",
            "thresholds",
            "unknown_logins",
            "insert_masked",
            "unclassified",
            "min_group",
            "classes",
            "tables",
            "roles",
            "purposes",
            "grants",
            "limits",
            "sanctions",
            "functions",
        ],
    );
    match reader.integer(root, "version") {
        Some((1, _)) => {}
        Some((other, span)) => reader.error(
            &span,
            format!("version {other} is not known"),
            Some("this Menshen reads version 1".to_owned()),
        ),
        None if root.get("version").is_none() => {
            reader.error(&(0..0), "the file lacks `version = 1`", None);
        }
        None => {}
    }
    let unknown_logins = match reader.string(root, "unknown_logins") {
        None => UnknownLogins::default(),
        Some((text, span)) => match text.as_str() {
            "deny" => UnknownLogins::Deny,
            "mask" => UnknownLogins::Mask,
            other => {
                reader.error(
                    &span,
                    format!("unknown_logins `{other}` is neither `deny` nor `mask`"),
                    None,
                );
                UnknownLogins::Deny
            }
        },
    };
    let insert_masked = match reader.string(root, "insert_masked") {
        None => InsertMasked::default(),
        Some((text, span)) => match text.as_str() {
            "allow" => InsertMasked::Allow,
            "deny" => InsertMasked::Deny,
            other => {
                reader.error(
                    &span,
                    format!("insert_masked `{other}` is neither `allow` nor `deny`"),
                    None,
                );
                InsertMasked::Deny
            }
        },
    };
    let unclassified = match reader.string(root, "unclassified") {
        None => Unclassified::default(),
        Some((text, span)) => match text.as_str() {
            "mask" => Unclassified::Mask,
            "deny" => Unclassified::Deny,
            "clear" => Unclassified::Clear,
            other => {
                reader.error(
                    &span,
                    format!("unclassified `{other}` is none of `mask`, `deny` and `clear`"),
                    None,
                );
                Unclassified::Deny
            }
        },
    };
    let min_group = reader.integer(root, "min_group").and_then(|(n, span)| {
        let group = u32::try_from(n).ok().filter(|n| *n > 0);
        if group.is_none() {
            reader.error(&span, "min_group is not a number of people", None);
        }
        group
    });
    let classes = classes(reader, root);
    let tables = tables(reader, root, &classes);
    let purposes = purposes(reader, root);
    let roles = roles(reader, root, &purposes);
    let grants = grants(reader, root, &classes, &tables, &roles, &purposes);
    let limits = limits(reader, root, &roles);
    let sanctions = sanctions(reader, root);
    let mut trusted_functions = Vec::new();
    if let Some(functions) = reader.section(root, "functions") {
        reader.known(&functions, &["trust"]);
        for (text, span) in reader.strings(&functions, "trust") {
            if !text.contains('.') {
                reader.error(&span, format!("`{text}` is not like `schema.function`"), None);
            }
            if let Some(_glob) = glob(reader, &text, &span) {
                trusted_functions.push(text);
            }
        }
    }
    Policy {
        epoch,
        thresholds: reader.string(root, "thresholds").map(|(name, _)| name),
        classes,
        tables,
        unknown_logins,
        min_group,
        unclassified,
        insert_masked,
        grants,
        trusted_functions,
        roles,
        purposes,
        limits,
        sanctions,
    }
}

fn glob(reader: &mut Reader<'_>, text: &str, span: &Range<usize>) -> Option<GlobMatcher> {
    match Glob::new(text) {
        Ok(glob) => Some(glob.compile_matcher()),
        Err(e) => {
            reader.error(span, format!("`{text}` is not a pattern: {}", e.kind()), None);
            None
        }
    }
}

fn globs<'t>(reader: &mut Reader<'t>, section: &Section<'t>, key: &str) -> Vec<GlobMatcher> {
    let texts = reader.strings(section, key);
    texts
        .iter()
        .filter_map(|(text, span)| glob(reader, text, span))
        .collect()
}

fn classes<'t>(reader: &mut Reader<'t>, root: &Section<'t>) -> BTreeMap<String, Class> {
    let mut classes = BTreeMap::new();
    for ((name, place), section) in reader.entries(root, "classes") {
        reader.known(&section, &["category", "mask", "compare"]);
        let category = reader.string(&section, "category").map(|(c, _)| c);
        let mask = reader
            .required(&section, "mask")
            .and_then(|(text, span)| match text.parse::<MaskSpec>() {
                Ok(mask) => Some(mask),
                Err(why) => {
                    reader.error(&span, why, None);
                    None
                }
            });
        let compare = match reader.string(&section, "compare") {
            None => Compare::default(),
            Some((text, span)) => match text.as_str() {
                "masked" => Compare::Masked,
                "equality" => Compare::Equality,
                "deny" => Compare::Deny,
                other => {
                    reader.error(
                        &span,
                        format!("compare `{other}` is none of `masked`, `equality` and `deny`"),
                        None,
                    );
                    Compare::Deny
                }
            },
        };
        // A class with a bad mask still exists, so that what names it is not a second mistake.
        let line = reader.line(&place);
        classes.insert(
            name.clone(),
            Class {
                name,
                category,
                mask: mask.unwrap_or(MaskSpec::Null),
                compare,
                line,
            },
        );
    }
    classes
}

fn relation_name(reader: &mut Reader<'_>, text: &str, span: &Range<usize>) -> Option<RelationName> {
    match text.split_once('.') {
        Some((schema, name)) if !schema.is_empty() && !name.is_empty() => Some(RelationName {
            schema: schema.to_owned(),
            name: name.to_owned(),
        }),
        _ => {
            reader.error(span, format!("`{text}` is not like `schema.table`"), None);
            None
        }
    }
}

fn dotted(name: &RelationName) -> String {
    format!("{}.{}", name.schema, name.name)
}

fn tables<'t>(
    reader: &mut Reader<'t>,
    root: &Section<'t>,
    classes: &BTreeMap<String, Class>,
) -> BTreeMap<RelationName, TableRule> {
    let mut tables = BTreeMap::new();
    let mut spaces: Vec<(RelationName, Range<usize>)> = Vec::new();
    for ((text, place), section) in reader.entries(root, "tables") {
        reader.known(&section, &["person", "of", "columns", "plain"]);
        let Some(name) = relation_name(reader, &text, &place) else {
            continue;
        };
        let person = reader.string(&section, "person").map(|(p, _)| p);
        let of = reader.string(&section, "of").and_then(|(text, span)| {
            let of = relation_name(reader, &text, &span)?;
            spaces.push((of.clone(), span));
            Some(of)
        });
        let mut columns = BTreeMap::new();
        let mut column_lines = BTreeMap::new();
        for ((column, at), (class, span)) in reader.map(&section, "columns") {
            if !classes.contains_key(&class) {
                let near = did_you_mean(&class, classes.keys().map(String::as_str));
                reader.error(
                    &span,
                    format!("class `{class}` of column `{column}` is not in the policy"),
                    near,
                );
            }
            column_lines.insert(column.clone(), reader.line(&at));
            columns.insert(column, class);
        }
        let plain = section.get("plain").map(|_| {
            let listed = reader.strings(&section, "plain");
            for (column, span) in &listed {
                if columns.contains_key(column) {
                    reader.error(span, format!("column `{column}` is both classified and plain"), None);
                }
            }
            listed.into_iter().map(|(c, _)| c).collect()
        });
        let counted = columns
            .values()
            .any(|c| classes.get(c).is_some_and(|c| c.category.is_some()));
        if person.is_none() && counted {
            reader.error(
                &place,
                format!("table `{text}` has classes with a legal category but no `person` column"),
                Some("name the column that identifies the person a row is about".to_owned()),
            );
        }
        let line = reader.line(&place);
        let of = of.unwrap_or_else(|| name.clone());
        tables.insert(
            name,
            TableRule {
                person,
                of,
                columns,
                plain,
                line,
                column_lines,
            },
        );
    }
    for (of, span) in spaces {
        if !tables.contains_key(&of) {
            let names: Vec<String> = tables.keys().map(dotted).collect();
            let near = did_you_mean(&dotted(&of), names.iter().map(String::as_str));
            reader.error(
                &span,
                format!("`of` names table `{}`, which is not in the policy", dotted(&of)),
                near,
            );
        }
    }
    tables
}

fn purposes<'t>(reader: &mut Reader<'t>, root: &Section<'t>) -> BTreeMap<String, Purpose> {
    let mut purposes = BTreeMap::new();
    for ((name, _), section) in reader.entries(root, "purposes") {
        reader.known(&section, &["require", "networks", "hours"]);
        let mut require = Vec::new();
        for ((setting, at), (pattern, span)) in reader.map(&section, "require") {
            let plain = setting
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if !plain || setting.starts_with('k') && setting.len() > 30 || setting.is_empty() {
                reader.error(
                    &at,
                    format!("`{setting}` cannot be part of a setting's name"),
                    Some("use a-z, 0-9 and _".to_owned()),
                );
            }
            // The whole value must match, whether or not the pattern says so.
            match Regex::new(&format!("^(?:{pattern})$")) {
                Ok(regex) => require.push((setting, regex, pattern)),
                Err(e) => reader.error(
                    &span,
                    format!("`{pattern}` is not a regular expression: {e}").replace('\n', " "),
                    None,
                ),
            }
        }
        let mut networks = Vec::new();
        for (text, span) in reader.strings(&section, "networks") {
            match text
                .parse()
                .or_else(|_| text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from))
            {
                Ok(network) => networks.push(network),
                Err(_) => reader.error(&span, format!("`{text}` is not a network such as 10.0.0.0/8"), None),
            }
        }
        let hours = hours(reader, &section);
        purposes.insert(
            name,
            Purpose {
                require,
                networks,
                hours,
            },
        );
    }
    purposes
}

fn hours<'t>(reader: &mut Reader<'t>, section: &Section<'t>) -> Option<Hours> {
    let (text, span) = reader.string(section, "hours")?;
    match text.parse() {
        Ok(hours) => Some(hours),
        Err(why) => {
            reader.error(&span, why, None);
            None
        }
    }
}

fn roles<'t>(
    reader: &mut Reader<'t>,
    root: &Section<'t>,
    purposes: &BTreeMap<String, Purpose>,
) -> BTreeMap<String, Role> {
    let mut roles = BTreeMap::new();
    for ((name, place), section) in reader.entries(root, "roles") {
        reader.known(&section, &["logins", "groups", "purpose"]);
        let logins = globs(reader, &section, "logins");
        let groups = globs(reader, &section, "groups");
        if section.get("logins").is_none() && section.get("groups").is_none() {
            reader.error(&place, format!("role `{name}` has neither `logins` nor `groups`"), None);
        }
        let purpose = named(reader, &section, "purpose", purposes, "purpose");
        roles.insert(
            name,
            Role {
                logins,
                groups,
                purpose,
            },
        );
    }
    roles
}

/// A key that names an entry of another table of the file.
fn named<'t, V>(
    reader: &mut Reader<'t>,
    section: &Section<'t>,
    key: &str,
    among: &BTreeMap<String, V>,
    what: &str,
) -> Option<String> {
    let (name, span) = reader.string(section, key)?;
    if !among.contains_key(&name) {
        let near = did_you_mean(&name, among.keys().map(String::as_str));
        reader.error(
            &span,
            format!("{what} `{name}` in {} is not in the policy", section.name),
            near,
        );
    }
    Some(name)
}

fn grants<'t>(
    reader: &mut Reader<'t>,
    root: &Section<'t>,
    classes: &BTreeMap<String, Class>,
    tables: &BTreeMap<RelationName, TableRule>,
    roles: &BTreeMap<String, Role>,
    purposes: &BTreeMap<String, Purpose>,
) -> Vec<Grant> {
    let mut grants: Vec<(Grant, Range<usize>)> = Vec::new();
    for section in reader.array(root, "grants") {
        reader.known(
            &section,
            &[
                "role", "purpose", "clear", "deny", "rows", "write", "derive", "ddl", "hours", "until", "order",
            ],
        );
        if section.get("role").is_none() {
            reader.error(&section.span, "a grant lacks the key `role`", None);
        }
        let role = named(reader, &section, "role", roles, "role").unwrap_or_default();
        let purpose = named(reader, &section, "purpose", purposes, "purpose");
        let clear = scopes(reader, &section, "clear", classes, tables);
        let deny = scopes(reader, &section, "deny", classes, tables);
        let write = scopes(reader, &section, "write", classes, tables);
        let derive = scopes(reader, &section, "derive", classes, tables);
        let ddl = reader.flag(&section, "ddl").unwrap_or(false);
        let mut rows = BTreeMap::new();
        for ((table, at), (filter, span)) in reader.map(&section, "rows") {
            let Some(name) = relation_name(reader, &table, &at) else {
                continue;
            };
            if !tables.contains_key(&name) {
                let names: Vec<String> = tables.keys().map(dotted).collect();
                let near = did_you_mean(&table, names.iter().map(String::as_str));
                reader.error(
                    &at,
                    format!("row filter names table `{table}`, which is not in the policy"),
                    near,
                );
            }
            if filter.trim().is_empty() {
                reader.error(
                    &span,
                    "a row filter is empty",
                    Some("leave it out to allow all rows".to_owned()),
                );
            }
            rows.insert(name, filter);
        }
        let none = [&clear, &deny, &write, &derive].iter().all(|s| s.is_empty());
        if none && rows.is_empty() && !ddl {
            reader.warn(
                &section.span,
                "a grant neither clears, denies, filters nor allows anything",
                None,
            );
        }
        let grant = Grant {
            line: reader.line(&section.span),
            role,
            purpose,
            rows,
            order: reader.integer(&section, "order").map(|(n, _)| n),
            clear: clear.into_iter().map(|(s, _)| s).collect(),
            deny: deny.into_iter().map(|(s, _)| s).collect(),
            write: write.into_iter().map(|(s, _)| s).collect(),
            derive: derive.into_iter().map(|(s, _)| s).collect(),
            ddl,
            hours: hours(reader, &section),
            until: reader.date(&section, "until").map(|(d, _)| d),
        };
        for (other, _) in &grants {
            overlap(reader, other, &grant, &section.span, classes);
        }
        grants.push((grant, section.span.clone()));
    }
    grants.into_iter().map(|(g, _)| g).collect()
}

fn scopes<'t>(
    reader: &mut Reader<'t>,
    section: &Section<'t>,
    key: &str,
    classes: &BTreeMap<String, Class>,
    tables: &BTreeMap<RelationName, TableRule>,
) -> Vec<Placed<Scope>> {
    let mut found = Vec::new();
    for (text, span) in reader.strings(section, key) {
        let parts: Vec<&str> = text.split('.').collect();
        let scope = match parts.as_slice() {
            ["*"] => Some(Scope::All),
            [class] if classes.contains_key(*class) => Some(Scope::Class((*class).to_owned())),
            [class] => {
                let near = did_you_mean(class, classes.keys().map(String::as_str));
                reader.error(&span, format!("class `{class}` in `{key}` is not in the policy"), near);
                None
            }
            [schema, table, column] => {
                let name = RelationName {
                    schema: (*schema).to_owned(),
                    name: (*table).to_owned(),
                };
                match tables.get(&name) {
                    Some(_) if *column == "*" => Some(Scope::Relation(name)),
                    Some(rule) if rule.columns.contains_key(*column) => Some(Scope::Column(name, (*column).to_owned())),
                    Some(rule) => {
                        let near = did_you_mean(column, rule.columns.keys().map(String::as_str));
                        reader.error(&span, format!("column `{text}` in `{key}` is not classified"), near);
                        None
                    }
                    None => {
                        let names: Vec<String> = tables.keys().map(dotted).collect();
                        let near = did_you_mean(&dotted(&name), names.iter().map(String::as_str));
                        reader.error(
                            &span,
                            format!("table of `{text}` in `{key}` is not in the policy"),
                            near,
                        );
                        None
                    }
                }
            }
            _ => {
                reader.error(
                    &span,
                    format!("`{text}` in `{key}` is neither a class, `*`, `schema.table.column` nor `schema.table.*`"),
                    None,
                );
                None
            }
        };
        found.extend(scope.map(|s| (s, span)));
    }
    found
}

/// Two grants that can be in force at once and contradict each other need an order.
fn overlap(reader: &mut Reader<'_>, one: &Grant, two: &Grant, span: &Range<usize>, classes: &BTreeMap<String, Class>) {
    let together =
        one.role == two.role && (one.purpose == two.purpose || one.purpose.is_none() || two.purpose.is_none());
    if !together || one.order.is_some() && two.order.is_some() && one.order != two.order {
        return;
    }
    let touches = |a: &[Scope], b: &[Scope]| {
        a.iter().any(|x| {
            b.iter().any(|y| match (x, y) {
                (Scope::All, _) | (_, Scope::All) => !classes.is_empty(),
                (Scope::Class(c), Scope::Class(d)) => c == d,
                (Scope::Relation(r), Scope::Relation(s) | Scope::Column(s, _)) => r == s,
                (Scope::Column(r, _), Scope::Relation(s)) => r == s,
                (Scope::Column(r, c), Scope::Column(s, d)) => r == s && c == d,
                // A class and a column may meet: the column decides in favour of nobody without an order.
                (Scope::Class(_), Scope::Relation(_) | Scope::Column(..))
                | (Scope::Relation(_) | Scope::Column(..), Scope::Class(_)) => false,
            })
        })
    };
    let hint = || Some("give both an `order`; the lower one wins".to_owned());
    if touches(&one.clear, &two.deny) || touches(&one.deny, &two.clear) {
        reader.error(
            span,
            format!(
                "this grant and the one at line {} clear and deny the same for role `{}`",
                one.line, two.role
            ),
            hint(),
        );
    }
    if one
        .rows
        .iter()
        .any(|(table, filter)| two.rows.get(table).is_some_and(|f| f != filter))
    {
        reader.error(
            span,
            format!(
                "this grant and the one at line {} filter the same table differently for role `{}`",
                one.line, two.role
            ),
            hint(),
        );
    }
}

fn limits<'t>(reader: &mut Reader<'t>, root: &Section<'t>, roles: &BTreeMap<String, Role>) -> Vec<(String, Limit)> {
    let mut limits = Vec::new();
    for section in reader.array(root, "limits") {
        reader.known(&section, &["role", "window", "alert_at", "stop_at", "level"]);
        let role = match reader.string(&section, "role") {
            None => "*".to_owned(),
            Some((role, _)) if role == "*" || roles.contains_key(&role) => role,
            Some((role, span)) => {
                let near = did_you_mean(&role, roles.keys().map(String::as_str));
                reader.error(&span, format!("role `{role}` in [[limits]] is not in the policy"), near);
                role
            }
        };
        let window = reader
            .required(&section, "window")
            .and_then(|(text, span)| match window(&text) {
                Some(window) => Some((window, text)),
                None => {
                    reader.error(
                        &span,
                        format!("window `{text}` is not like `1h`, `1d`, `30d` (at most 3650d)"),
                        None,
                    );
                    None
                }
            });
        let mut shares = BTreeSet::new();
        let mut alert_at = Vec::new();
        for (share, span) in reader.numbers(&section, "alert_at").unwrap_or_default() {
            if !(share > 0.0 && share <= 100.0 && shares.insert(share.to_bits())) {
                reader.error(
                    &span,
                    format!("share {share} of `alert_at` is not above 0, or stands twice"),
                    None,
                );
            }
            alert_at.push(share);
        }
        alert_at.sort_by(f64::total_cmp);
        let stop_at = reader.number(&section, "stop_at").and_then(|(share, span)| {
            if share > 0.0 && share <= 100.0 {
                Some(share)
            } else {
                reader.error(&span, format!("`stop_at` {share} is not above 0"), None);
                None
            }
        });
        if let (Some(stop), Some(last)) = (stop_at, alert_at.last())
            && *last > stop
        {
            reader.warn(
                &section.span,
                format!("`alert_at` {last} lies above `stop_at` {stop} and will not be reached"),
                None,
            );
        }
        if alert_at.is_empty() && section.get("stop_at").is_none() {
            reader.error(&section.span, "a limit has neither `alert_at` nor `stop_at`", None);
        }
        let line = reader.line(&section.span);
        let level = reader
            .string(&section, "level")
            .map_or_else(|| "serious_insider".to_owned(), |(l, _)| l);
        if let Some((window, window_text)) = window {
            limits.push((
                role,
                Limit {
                    name: format!("limit at line {line}"),
                    window,
                    window_text,
                    level,
                    alert_at,
                    stop_at,
                },
            ));
        }
    }
    limits
}

fn window(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at(text.len().checked_sub(1)?);
    let seconds = match unit {
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        "y" => 365 * 86_400,
        _ => return None,
    };
    let count: u64 = digits.parse().ok()?;
    let total = count.checked_mul(seconds)?;
    (total > 0 && total <= 3650 * 86_400).then(|| Duration::from_secs(total))
}

fn sanctions<'t>(reader: &mut Reader<'t>, root: &Section<'t>) -> Vec<Sanction> {
    let mut sanctions = Vec::new();
    for section in reader.array(root, "sanctions") {
        reader.known(&section, &["login", "kind", "on"]);
        let login = reader
            .required(&section, "login")
            .and_then(|(text, span)| glob(reader, &text, &span));
        let criminal = match reader.required(&section, "kind") {
            Some((kind, _)) if kind == "criminal" => true,
            Some((kind, _)) if kind == "administrative" => false,
            Some((kind, span)) => {
                reader.error(
                    &span,
                    format!("kind `{kind}` is neither `criminal` nor `administrative`"),
                    None,
                );
                true
            }
            None => true,
        };
        if section.get("on").is_none() {
            reader.error(&section.span, "a sanction lacks the key `on` (its date)", None);
        }
        let on = reader.date(&section, "on").map(|(d, _)| d);
        if let (Some(login), Some(on)) = (login, on) {
            sanctions.push(Sanction { login, criminal, on });
        }
    }
    sanctions
}

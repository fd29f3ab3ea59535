//! Each mask: its SQL expression by type, and its strength.
//!
//! Masks are SQL expressions that PostgreSQL evaluates, so that every operator above them sees the masked value. They keep
//! the column's type, NULL stays NULL (but for `null`, which makes everything NULL), and they never raise an error: an error
//! on some rows would tell something about their values. Everything in them is written with `pg_catalog`, and no literal
//! holds a backslash, so that neither `search_path` nor `standard_conforming_strings` can change what they mean.
//!
//! | mask | strength | why |
//! | --- | --- | --- |
//! | `null`, `full`, `constant` | anonymous | nothing of the value is left |
//! | `year`, `month`, `bucket`, `address(province \| city)`, `name`, `id_card` (1+1), `keep` of up to 3 characters | anonymous | shared by many people; not identifying by itself (LEGAL 2.3) |
//! | `email`, `phone` (3+4), `bank_card` (last 4), `address(district)`, `keep` of 4 to 8 characters, `token` | pseudonymous: counts | the same person can be told again, or found beside other columns |
//! | `keep` of more than 8 characters | identifying: counts | mostly legible |
//!
//! `token` is a keyed hash (HMAC-SHA-256): stable and joinable. Its key is no part of any statement: it travels in the
//! StartupMessage, in two settings with random names, so that no server log, statistics view or client ever shows it.

pub mod late;

pub use late::LateMask;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::catalog::Column;
use crate::policy::MaskSpec;
use crate::policy::mask_spec::AddressLevel;

/// What a mask leaves of a person, which the meter uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Strength {
    /// Cannot be restored: not counted (法释〔2017〕10号 art. 3).
    Anonymous,
    /// The same person can be told again: counted.
    Pseudonymous,
    /// Enough is left to find the person: counted.
    Identifying,
}

impl Strength {
    /// Whether showing it counts.
    #[must_use]
    pub fn counts(self) -> bool {
        match self {
            Self::Anonymous => false,
            Self::Pseudonymous | Self::Identifying => true,
        }
    }
}

/// Names of the two session settings that hold the token key's HMAC pad blocks (64 bytes each, hex). The session places
/// them in the upstream StartupMessage.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenSettings {
    /// Setting with the inner pad block.
    pub inner: String,
    /// Setting with the outer pad block.
    pub outer: String,
}

/// The inner and outer HMAC-SHA-256 pad blocks of a key, in hex (RFC 2104: the key padded to 64 bytes, XOR 0x36 and 0x5c).
#[must_use]
pub fn token_pads(key: &[u8; 32]) -> (String, String) {
    let pad = |with: u8| {
        let mut block = [with; 64];
        for (byte, key) in block.iter_mut().zip(key) {
            *byte ^= key;
        }
        hex::encode(block)
    };
    (pad(0x36), pad(0x5c))
}

/// The token mask's key, derived from the proxy's key so that one secret file serves both uses.
#[must_use]
pub fn token_key(master: &[u8; 32]) -> [u8; 32] {
    // A key of 32 bytes is always accepted; the plain hash is never reached and would be as secret.
    match Hmac::<Sha256>::new_from_slice(master) {
        Ok(mut mac) => {
            mac.update(b"menshen token mask");
            mac.finalize().into_bytes().into()
        }
        Err(_) => Sha256::digest(master).into(),
    }
}

/// Why a mask does not fit a column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

/// Type families that masks tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Text,
    Integer,
    Numeric,
    Float,
    Date,
    Timestamp,
    TimestampTz,
    Time,
    Bool,
    Uuid,
    Bytea,
    Json,
    Array,
    Other,
}

fn family(column: &Column) -> Family {
    match column.base_type_oid {
        16 => Family::Bool,
        17 => Family::Bytea,
        20 | 21 | 23 => Family::Integer,
        1700 => Family::Numeric,
        700 | 701 => Family::Float,
        1082 => Family::Date,
        1083 | 1266 => Family::Time,
        1114 => Family::Timestamp,
        1184 => Family::TimestampTz,
        2950 => Family::Uuid,
        114 | 3802 => Family::Json,
        19 | 25 | 1042 | 1043 => Family::Text,
        _ if column.category == 'S' => Family::Text,
        _ if column.category == 'A' => Family::Array,
        _ => Family::Other,
    }
}

/// The SQL expression that masks a column, whose own reference in the masked scan is `reference` (e.g. `m."phone"`).
/// Its type is the column's base type with its typmod.
///
/// # Errors
/// Where the mask cannot keep the column's type.
pub fn expression(spec: &MaskSpec, column: &Column, reference: &str, token: &TokenSettings) -> Result<String, Unfit> {
    let target = &column.base_type_sql;
    let cast = |sql: String| Ok(format!("({sql})::{target}"));
    let t = format!("{reference}::pg_catalog.text");
    let family = family(column);
    let text_only = |sql: String| {
        if family == Family::Text {
            Ok(format!("({sql})::{target}"))
        } else {
            Err(unfit(spec, column, "a text column"))
        }
    };
    match spec {
        MaskSpec::Null => Ok(format!("NULL::{target}")),
        MaskSpec::Full => cast(unless_null(
            reference,
            &full(column, family).ok_or_else(|| unfit(spec, column, "`null`"))?,
        )),
        MaskSpec::Constant(value) => {
            check_constant(spec, value, column, family)?;
            cast(unless_null(reference, &literal(value)))
        }
        MaskSpec::Keep(first, last) => text_only(keep(&t, *first, *last)),
        MaskSpec::IdCard => text_only(keep(&t, 1, 1)),
        MaskSpec::BankCard => text_only(keep(&t, 0, 4)),
        MaskSpec::Name => text_only(name(&t)),
        MaskSpec::Email => text_only(format!(
            "CASE WHEN {at} OPERATOR(pg_catalog.>) 1 THEN pg_catalog.left({t}, 1) OPERATOR(pg_catalog.||) '***' \
             OPERATOR(pg_catalog.||) pg_catalog.substr({t}, {at}) WHEN {t} IS NOT NULL THEN '***' END",
            at = format_args!("pg_catalog.strpos({t}, '@')")
        )),
        MaskSpec::Phone => text_only(phone(&t)),
        MaskSpec::Address(level) => text_only(address(&t, *level)),
        MaskSpec::Year => truncate(spec, "year", column, family, reference),
        MaskSpec::Month => truncate(spec, "month", column, family, reference),
        MaskSpec::Bucket(width) => bucket(spec, *width, column, family, reference),
        MaskSpec::Token => tokenised(spec, column, family, &t, token),
    }
}

/// The strength of a mask on a column.
#[must_use]
pub fn strength(spec: &MaskSpec, _column: &Column) -> Strength {
    match spec {
        MaskSpec::Null
        | MaskSpec::Full
        | MaskSpec::Constant(_)
        | MaskSpec::Year
        | MaskSpec::Month
        | MaskSpec::Bucket(_)
        | MaskSpec::Name
        | MaskSpec::IdCard
        | MaskSpec::Address(AddressLevel::Province | AddressLevel::City) => Strength::Anonymous,
        MaskSpec::Email
        | MaskSpec::Phone
        | MaskSpec::BankCard
        | MaskSpec::Token
        | MaskSpec::Address(AddressLevel::District) => Strength::Pseudonymous,
        MaskSpec::Keep(first, last) => match u32::from(*first) + u32::from(*last) {
            0..=3 => Strength::Anonymous,
            4..=8 => Strength::Pseudonymous,
            9.. => Strength::Identifying,
        },
    }
}

fn unfit(spec: &MaskSpec, column: &Column, fits: &str) -> Unfit {
    Unfit(format!(
        "mask `{spec}` does not fit type {}; it needs or use {fits}",
        column.type_sql
    ))
}

fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn unless_null(reference: &str, sql: &str) -> String {
    format!("CASE WHEN {reference} IS NOT NULL THEN {sql} END")
}

fn keep(t: &str, first: u16, last: u16) -> String {
    let both = u32::from(first) + u32::from(last);
    format!(
        "CASE WHEN pg_catalog.length({t}) OPERATOR(pg_catalog.<=) {both} THEN pg_catalog.repeat('*', pg_catalog.length({t})) \
         ELSE pg_catalog.left({t}, {first}) OPERATOR(pg_catalog.||) \
         pg_catalog.repeat('*', pg_catalog.length({t}) OPERATOR(pg_catalog.-) {both}) OPERATOR(pg_catalog.||) \
         CASE WHEN {last} OPERATOR(pg_catalog.=) 0 THEN '' ELSE pg_catalog.right({t}, {last}) END END"
    )
}

/// Mobile numbers keep three digits before and four behind the hidden ones (138****1234), with whatever country code stands
/// before them; landlines keep the area code; what is too short to have both keeps its last two digits.
fn phone(t: &str) -> String {
    format!(
        "CASE WHEN pg_catalog.length({t}) OPERATOR(pg_catalog.<) 7 THEN pg_catalog.repeat('*', pg_catalog.length({t})) \
         WHEN pg_catalog.length({t}) OPERATOR(pg_catalog.<) 11 THEN \
         pg_catalog.repeat('*', pg_catalog.length({t}) OPERATOR(pg_catalog.-) 2) OPERATOR(pg_catalog.||) pg_catalog.right({t}, 2) \
         WHEN pg_catalog.length({t}) OPERATOR(pg_catalog.<=) 16 THEN \
         pg_catalog.left({t}, pg_catalog.length({t}) OPERATOR(pg_catalog.-) 8) OPERATOR(pg_catalog.||) '****' \
         OPERATOR(pg_catalog.||) pg_catalog.right({t}, 4) \
         ELSE pg_catalog.repeat('*', pg_catalog.length({t})) END"
    )
}

/// Han names keep their surname (two characters where it is a known compound one); others the first letter of each word.
fn name(t: &str) -> String {
    // One literal: as a list it would be most of what there is to parse in a statement.
    let compound: Vec<&str> = include_str!("surnames.txt").split_whitespace().collect();
    let rest = |n: u8| {
        format!(
            "pg_catalog.left({t}, {n}) OPERATOR(pg_catalog.||) \
             pg_catalog.repeat('*', GREATEST(pg_catalog.length({t}) OPERATOR(pg_catalog.-) {n}, 1))"
        )
    };
    format!(
        "CASE WHEN pg_catalog.ascii({t}) OPERATOR(pg_catalog.>=) 13312 AND pg_catalog.ascii({t}) OPERATOR(pg_catalog.<=) 40959 THEN \
         CASE WHEN pg_catalog.length({t}) OPERATOR(pg_catalog.>) 2 AND pg_catalog.left({t}, 2) OPERATOR(pg_catalog.=) \
         ANY ({compound}::pg_catalog.text[]) THEN {two} ELSE {one} END \
         ELSE pg_catalog.regexp_replace({t}, '([^ ])[^ ]*', pg_catalog.chr(92) OPERATOR(pg_catalog.||) '1***', 'g') END",
        compound = literal(&format!("{{{}}}", compound.join(","))),
        two = rest(2),
        one = rest(1),
    )
}

/// Keeps an address down to a level, by the suffixes of administrative divisions; what has none is hidden whole.
fn address(t: &str, level: AddressLevel) -> String {
    const PROVINCE: &str = "(?:省|自治区|特别行政区|北京市|天津市|上海市|重庆市)";
    const CITY: &str = "(?:市|自治州|盟|地区)";
    let province = format!("^(?:.{{0,8}}?{PROVINCE})");
    let city = format!("^(?:.{{0,8}}?(?:省|自治区|特别行政区))?.{{1,10}}?{CITY}");
    let district = format!("{city}?.{{1,8}}?(?:区|县|旗|市)");
    let district = district.replacen(CITY, "(?:市|自治州|盟|地区)", 1);
    let part = |pattern: &str| format!("pg_catalog.substring({t}, '{pattern}') OPERATOR(pg_catalog.||) '***'");
    let mut choices: Vec<String> = Vec::new();
    if level == AddressLevel::District {
        choices.push(part(&district));
    }
    if level != AddressLevel::Province {
        choices.push(part(&city));
    }
    choices.push(part(&province));
    format!(
        "CASE WHEN {t} IS NOT NULL THEN COALESCE({}, '***') END",
        choices.join(", ")
    )
}

fn full(column: &Column, family: Family) -> Option<String> {
    Some(match family {
        Family::Text => "'***'".to_owned(),
        Family::Integer | Family::Numeric | Family::Float => "0".to_owned(),
        Family::Date => "'1970-01-01'::pg_catalog.date".to_owned(),
        Family::Timestamp => "'1970-01-01 00:00:00'::pg_catalog.timestamp".to_owned(),
        Family::TimestampTz => "'1970-01-01 00:00:00+00'::pg_catalog.timestamptz".to_owned(),
        Family::Time => format!("'00:00:00'::{}", column.base_type_sql),
        Family::Bool => "false".to_owned(),
        Family::Uuid => "'00000000-0000-0000-0000-000000000000'::pg_catalog.uuid".to_owned(),
        Family::Bytea => "pg_catalog.decode('', 'hex')".to_owned(),
        Family::Json => "'null'".to_owned(),
        Family::Array => format!("'{{}}'::{}", column.base_type_sql),
        Family::Other => return None,
    })
}

fn check_constant(spec: &MaskSpec, value: &str, column: &Column, family: Family) -> Result<(), Unfit> {
    let fits = match family {
        Family::Text => true,
        Family::Integer => {
            let range = match column.base_type_oid {
                21 => i64::from(i16::MIN)..=i64::from(i16::MAX),
                23 => i64::from(i32::MIN)..=i64::from(i32::MAX),
                _ => i64::MIN..=i64::MAX,
            };
            value.parse::<i64>().is_ok_and(|v| range.contains(&v))
        }
        Family::Numeric => match numeric_bound(&column.base_type_sql) {
            None => plain_number(value),
            Some((digits, _)) => {
                plain_number(value)
                    && value
                        .trim_start_matches('-')
                        .split('.')
                        .next()
                        .is_some_and(|w| w.len() <= digits)
            }
        },
        Family::Float => value.parse::<f32>().is_ok_and(f32::is_finite),
        Family::Date => value.parse::<jiff::civil::Date>().is_ok(),
        Family::Bool => matches!(value, "true" | "false"),
        Family::Uuid => {
            value.len() == 36
                && value.chars().enumerate().all(|(i, c)| {
                    if matches!(i, 8 | 13 | 18 | 23) {
                        c == '-'
                    } else {
                        c.is_ascii_hexdigit()
                    }
                })
        }
        Family::Json => serde_json::from_str::<serde_json::Value>(value).is_ok(),
        Family::Timestamp | Family::TimestampTz | Family::Time | Family::Bytea | Family::Array | Family::Other => false,
    };
    if fits {
        Ok(())
    } else {
        Err(unfit(spec, column, "a constant of that type"))
    }
}

fn plain_number(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    !digits.is_empty()
        && digits.chars().all(|c| c.is_ascii_digit() || c == '.')
        && digits.matches('.').count() <= 1
        && digits != "."
}

/// Digits before and behind the point of `numeric(p,s)`.
fn numeric_bound(type_sql: &str) -> Option<(usize, usize)> {
    let inside = type_sql.split_once('(')?.1.strip_suffix(')')?;
    let (precision, scale) = inside.split_once(',').unwrap_or((inside, "0"));
    let precision: i64 = precision.trim().parse().ok()?;
    let scale: i64 = scale.trim().parse().ok()?;
    Some((
        usize::try_from((precision - scale).max(0)).ok()?,
        usize::try_from(scale.max(0)).ok()?,
    ))
}

fn truncate(spec: &MaskSpec, field: &str, column: &Column, family: Family, reference: &str) -> Result<String, Unfit> {
    let target = &column.base_type_sql;
    // Outside these bounds (and for infinity) conversions could raise an error: such values become NULL's neighbour, a fixed date.
    let bounded = |ty: &str, inner: String, fixed: &str| {
        format!(
            "(CASE WHEN {reference} OPERATOR(pg_catalog.>=) '0002-01-01'::pg_catalog.{ty} AND {reference} OPERATOR(pg_catalog.<) \
             '9999-01-01'::pg_catalog.{ty} THEN {inner} WHEN {reference} IS NOT NULL THEN '{fixed}'::pg_catalog.{ty} END)::{target}"
        )
    };
    match family {
        Family::Date => Ok(bounded(
            "date",
            format!("pg_catalog.date_trunc('{field}', {reference}::pg_catalog.timestamp)::pg_catalog.date"),
            "0001-01-01",
        )),
        Family::Timestamp => Ok(bounded(
            "timestamp",
            format!("pg_catalog.date_trunc('{field}', {reference})"),
            "0001-01-01",
        )),
        Family::TimestampTz => Ok(bounded(
            "timestamptz",
            format!("pg_catalog.date_trunc('{field}', {reference}, 'UTC')"),
            "0001-01-01 00:00:00+00",
        )),
        Family::Text => {
            let t = format!("{reference}::pg_catalog.text");
            let (digits, pattern) = if field == "year" {
                (4, "^[0-9]{4}")
            } else {
                (7, "^[0-9]{4}-[0-9]{2}")
            };
            Ok(format!(
                "(CASE WHEN {t} OPERATOR(pg_catalog.~) '{pattern}' THEN pg_catalog.left({t}, {digits}) WHEN {t} IS NOT NULL THEN '***' END)::{target}"
            ))
        }
        Family::Integer
        | Family::Numeric
        | Family::Float
        | Family::Time
        | Family::Bool
        | Family::Uuid
        | Family::Bytea
        | Family::Json
        | Family::Array
        | Family::Other => Err(unfit(spec, column, "a date, timestamp or text column")),
    }
}

fn bucket(spec: &MaskSpec, width: u64, column: &Column, family: Family, reference: &str) -> Result<String, Unfit> {
    let target = &column.base_type_sql;
    let floor = format!(
        "pg_catalog.floor({reference}::pg_catalog.numeric OPERATOR(pg_catalog./) {width}::pg_catalog.numeric) \
         OPERATOR(pg_catalog.*) {width}::pg_catalog.numeric"
    );
    // Rounding down may leave the type's range: the least value of the type stands in.
    let least = match (family, column.base_type_oid) {
        (Family::Integer, 21) => Some(i16::MIN.to_string()),
        (Family::Integer, 23) => Some(i32::MIN.to_string()),
        (Family::Integer, _) => Some(i64::MIN.to_string()),
        (Family::Numeric, _) => numeric_bound(target).map(|(whole, scale)| {
            let whole = if whole == 0 { "0".to_owned() } else { "9".repeat(whole) };
            if scale == 0 {
                format!("-{whole}")
            } else {
                format!("-{whole}.{}", "9".repeat(scale))
            }
        }),
        (Family::Float, 700) => Some("-3.4028234e38".to_owned()),
        (Family::Float, _) => Some("-1.7976931348623157e308".to_owned()),
        (_, _) => return Err(unfit(spec, column, "a numeric column")),
    };
    let value = match least {
        Some(least) => format!("GREATEST({floor}, '{least}'::pg_catalog.numeric)"),
        None => floor,
    };
    // GREATEST ignores NULL.
    Ok(format!(
        "(CASE WHEN {reference} IS NOT NULL THEN {value} END)::{target}"
    ))
}

fn tokenised(
    spec: &MaskSpec,
    column: &Column,
    family: Family,
    t: &str,
    token: &TokenSettings,
) -> Result<String, Unfit> {
    let target = &column.base_type_sql;
    let pad = |setting: &str| {
        format!(
            "pg_catalog.decode(pg_catalog.current_setting({}), 'hex')",
            literal(setting)
        )
    };
    let digest = format!(
        "pg_catalog.encode(pg_catalog.sha256({outer} OPERATOR(pg_catalog.||) pg_catalog.sha256({inner} OPERATOR(pg_catalog.||) \
         pg_catalog.convert_to({t}, 'UTF8'))), 'hex')",
        outer = pad(&token.outer),
        inner = pad(&token.inner),
    );
    match family {
        Family::Text => {
            let length = text_length(&column.base_type_sql);
            let hex = length.map_or(24, |n| n.saturating_sub(4).min(24));
            if hex < 16 {
                return Err(unfit(spec, column, "at least 20 characters"));
            }
            Ok(format!(
                "('tok_' OPERATOR(pg_catalog.||) pg_catalog.substr({digest}, 1, {hex}))::{target}"
            ))
        }
        Family::Integer => {
            // Positive numbers: 15 hex digits for bigint, 31 bits for integer.
            let (digits, bits, name) = match column.base_type_oid {
                20 => (15, 60, "int8"),
                23 => (7, 28, "int4"),
                _ => return Err(unfit(spec, column, "integer or bigint")),
            };
            Ok(format!(
                "(('x' OPERATOR(pg_catalog.||) pg_catalog.substr({digest}, 1, {digits}))::pg_catalog.bit({bits})::pg_catalog.{name})::{target}"
            ))
        }
        Family::Uuid => Ok(format!("(pg_catalog.substr({digest}, 1, 32))::pg_catalog.uuid")),
        Family::Numeric
        | Family::Float
        | Family::Date
        | Family::Timestamp
        | Family::TimestampTz
        | Family::Time
        | Family::Bool
        | Family::Bytea
        | Family::Json
        | Family::Array
        | Family::Other => Err(unfit(spec, column, "a text, integer, bigint or uuid column")),
    }
}

/// n of `character varying(n)` and `character(n)`.
fn text_length(type_sql: &str) -> Option<usize> {
    type_sql.split_once('(')?.1.strip_suffix(')')?.parse().ok()
}

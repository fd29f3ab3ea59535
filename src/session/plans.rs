//! Answers of EXPLAIN for a principal from whom something is masked or hidden: nothing passes but the plan's shape.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;

use crate::guard::plan::ExplainFormat;

/// Keys of a plan in JSON that tell no value, no count and no time.
const KEYS: [&str; 20] = [
    "Alias",
    "Async Capable",
    "CTE Name",
    "Command",
    "Custom Plan Provider",
    "Function Name",
    "Index Name",
    "Inner Unique",
    "Join Type",
    "Node Type",
    "Operation",
    "Parallel Aware",
    "Parent Relationship",
    "Partial Mode",
    "Plan",
    "Plans",
    "Relation Name",
    "Scan Direction",
    "Schema",
    "Strategy",
];

/// A DataRow's body of EXPLAIN (one text column): the whole message to send instead, or none.
///
/// # Errors
/// Where it is not a row of one column.
pub(super) fn shape_only(format: ExplainFormat, body: &[u8]) -> Result<Option<Bytes>, &'static str> {
    let bad = "a row of EXPLAIN of an unknown form";
    let (count, rest) = body.split_first_chunk::<2>().ok_or(bad)?;
    let (length, text) = rest.split_first_chunk::<4>().ok_or(bad)?;
    if i16::from_be_bytes(*count) != 1 || usize::try_from(i32::from_be_bytes(*length)) != Ok(text.len()) {
        return Err(bad);
    }
    let text = std::str::from_utf8(text).map_err(|_| bad)?;
    let kept = match format {
        ExplainFormat::Text => is_node(text).then(|| text.to_owned()),
        ExplainFormat::Json => {
            let mut document: Value = serde_json::from_str(text).map_err(|_| bad)?;
            keep(&mut document);
            Some(serde_json::to_string_pretty(&document).map_err(|_| bad)?)
        }
    };
    Ok(kept.map(|text| row(&text)))
}

/// Whether a line of a plan names a node: details stand below it as `Label: detail`.
fn is_node(line: &str) -> bool {
    let line = line.trim_start();
    let line = line.strip_prefix("->").map_or(line, str::trim_start);
    !line.contains(':') && !line.contains('\'')
}

fn keep(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| KEYS.binary_search(&key.as_str()).is_ok());
            fields.values_mut().for_each(keep);
        }
        Value::Array(items) => items.iter_mut().for_each(keep),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn row(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).unwrap_or(0);
    let mut out = BytesMut::with_capacity(text.len() + 11);
    out.put_u8(b'D');
    out.put_u32(10 + length);
    out.put_i16(1);
    out.put_u32(length);
    out.extend_from_slice(text.as_bytes());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &str) -> Option<String> {
        let message = row(line);
        shape_only(ExplainFormat::Text, &message[5..])
            .unwrap()
            .map(|m| String::from_utf8_lossy(&m[11..]).into_owned())
    }

    #[test]
    fn nodes_pass_and_details_do_not() {
        assert!(KEYS.is_sorted());
        for node in [
            "Sort",
            "  ->  Seq Scan on customers m",
            "  CTE x",
            "  InitPlan 1 (returns $0)",
        ] {
            assert_eq!(text(node).as_deref(), Some(node));
        }
        for detail in [
            "  Filter: (phone = '13800001111'::text)",
            "  Sort Key: id",
            "  Rows Removed by Filter: 40",
        ] {
            assert_eq!(text(detail), None);
        }
    }

    #[test]
    fn json_keeps_the_shape() {
        let message = row(
            r#"[{"Plan": {"Node Type": "Seq Scan", "Filter": "(x = 'y')", "Plan Rows": 40, "Plans": [{"Total Cost": 1}]}}]"#,
        );
        let out = shape_only(ExplainFormat::Json, &message[5..]).unwrap().unwrap();
        let document: Value = serde_json::from_slice(&out[11..]).unwrap();
        assert_eq!(
            document,
            serde_json::json!([{"Plan": {"Node Type": "Seq Scan", "Plans": [{}]}}])
        );
    }
}

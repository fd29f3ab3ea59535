//! Which node kinds may stand in an expression, and what the guard knows of built-in functions by name.
//!
//! A kind that is not named here refuses the statement: a new version of the grammar must be looked at before it is
//! let through.

/// Kinds of the raw grammar that make up expressions, by the struct names of `pg_query`.
const KINDS: [&str; 58] = [
    "AArrayExpr",
    "AConst",
    "AExpr",
    "AIndices",
    "AIndirection",
    "AStar",
    "BitString",
    "BoolExpr",
    "Boolean",
    "BooleanTest",
    "CaseExpr",
    "CaseWhen",
    "CoalesceExpr",
    "CollateClause",
    "ColumnRef",
    "Float",
    "FuncCall",
    "GroupingFunc",
    "GroupingSet",
    "Integer",
    "JsonAggConstructor",
    "JsonArgument",
    "JsonArrayAgg",
    "JsonArrayConstructor",
    "JsonArrayQueryConstructor",
    "JsonBehavior",
    "JsonFormat",
    "JsonFuncExpr",
    "JsonIsPredicate",
    "JsonKeyValue",
    "JsonObjectAgg",
    "JsonObjectConstructor",
    "JsonOutput",
    "JsonParseExpr",
    "JsonReturning",
    "JsonScalarExpr",
    "JsonSerializeExpr",
    "JsonTablePathSpec",
    "JsonValueExpr",
    "List",
    "MergeSupportFunc",
    "MinMaxExpr",
    "MultiAssignRef",
    "NamedArgExpr",
    "NullTest",
    "ParamRef",
    "ResTarget",
    "RowExpr",
    "SetToDefault",
    "SortBy",
    "SqlValueFunction",
    "String",
    "SubLink",
    "TypeCast",
    "TypeName",
    "WindowDef",
    "XmlExpr",
    "XmlSerialize",
];

/// Names that the grammar of PostgreSQL 16 to 18 reads as forms of its own, and an older server as calls of functions.
pub const NEWER_FORMS: [&str; 11] = [
    "json",
    "json_array",
    "json_arrayagg",
    "json_exists",
    "json_object",
    "json_objectagg",
    "json_query",
    "json_scalar",
    "json_serialize",
    "json_value",
    "merge_action",
];

/// Whether a node of that kind may stand in an expression.
#[must_use]
pub fn is_known(kind: &str) -> bool {
    KINDS.binary_search(&kind).is_ok()
}

/// Aggregates built into PostgreSQL 14 to 18, by name. A name that is missing here makes a hidden column fail on the
/// server (it would not be grouped), never a leak.
const AGGREGATES: [&str; 56] = [
    "any_value",
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "cume_dist",
    "dense_rank",
    "every",
    "json_agg",
    "json_agg_strict",
    "json_object_agg",
    "json_object_agg_strict",
    "json_object_agg_unique",
    "json_object_agg_unique_strict",
    "jsonb_agg",
    "jsonb_agg_strict",
    "jsonb_object_agg",
    "jsonb_object_agg_strict",
    "jsonb_object_agg_unique",
    "jsonb_object_agg_unique_strict",
    "max",
    "min",
    "mode",
    "percent_rank",
    "percentile_cont",
    "percentile_disc",
    "range_agg",
    "range_intersect_agg",
    "rank",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "string_agg",
    "sum",
    "var_pop",
    "var_samp",
    "variance",
    "xmlagg",
    "xmlconcat2",
    "xmlforest",
];

/// Whether `name` is a built-in aggregate.
#[must_use]
pub fn is_aggregate(name: &str) -> bool {
    AGGREGATES.binary_search(&name).is_ok()
}

/// Functions that count rows and show none of their values.
#[must_use]
pub fn only_counts(name: &str) -> bool {
    matches!(
        name,
        "count" | "regr_count" | "row_number" | "rank" | "dense_rank" | "percent_rank" | "cume_dist" | "ntile"
    )
}

/// Built-in functions whose result differs from call to call: a copy of them in a hidden column would not agree with
/// the original.
#[must_use]
pub fn is_volatile(name: &str) -> bool {
    matches!(
        name,
        "random"
            | "random_normal"
            | "setseed"
            | "clock_timestamp"
            | "timeofday"
            | "gen_random_uuid"
            | "uuidv4"
            | "uuidv7"
            | "nextval"
            | "currval"
            | "lastval"
            | "setval"
            | "pg_sleep"
            | "pg_sleep_for"
            | "pg_sleep_until"
            | "set_config"
            | "txid_current"
            | "pg_current_xact_id"
    )
}

/// System columns that every table has.
#[must_use]
pub fn is_system_column(name: &str) -> bool {
    matches!(name, "ctid" | "xmin" | "xmax" | "cmin" | "cmax" | "tableoid")
}

/// The name PostgreSQL gives to an output column without `AS` (`FigureColname`), for the forms that have one.
#[must_use]
pub fn column_name(expression: &super::tree::Tree) -> String {
    figure(expression).unwrap_or_else(|| "?column?".to_owned())
}

fn figure(t: &super::tree::Tree) -> Option<String> {
    match t.kind() {
        "ColumnRef" => t.names("fields")?.into_iter().rev().find(|n| n != "*"),
        "FuncCall" => t.names("funcname")?.pop(),
        "AIndirection" => t
            .list("indirection")
            .iter()
            .rev()
            .find(|i| i.kind() == "String")
            .map(|i| i.text("sval").to_owned())
            .or_else(|| figure(t.field("arg"))),
        "TypeCast" => figure(t.field("arg")).or_else(|| t.field("type_name").names("names")?.pop()),
        "CollateClause" => figure(t.field("arg")),
        "AExpr" if t.int("kind") == 6 => Some("nullif".to_owned()),
        "SubLink" => match t.int("sub_link_type") {
            1 => Some("exists".to_owned()),
            7 => Some("array".to_owned()),
            5 => {
                let first = t.field("subselect").list("target_list").first()?;
                let named = first.text("name");
                if named.is_empty() {
                    figure(first.field("val"))
                } else {
                    Some(named.to_owned())
                }
            }
            _ => None,
        },
        "CaseExpr" => figure(t.field("defresult")).or_else(|| Some("case".to_owned())),
        "AArrayExpr" => Some("array".to_owned()),
        "RowExpr" => Some("row".to_owned()),
        "CoalesceExpr" => Some("coalesce".to_owned()),
        "MinMaxExpr" => Some(if t.int("op") == 1 { "greatest" } else { "least" }.to_owned()),
        "GroupingFunc" => Some("grouping".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_for_binary_search() {
        assert!(KINDS.is_sorted());
        assert!(AGGREGATES.is_sorted());
    }
}

//! Known misreadings of `sqlparser` (PARSERS §3.2): names that it sees and PostgreSQL does not. Each is exact, and has a test.

/// Words that PostgreSQL's grammar knows as functions without parentheses: `sqlparser` takes them for columns (#15), or for tables in
/// FROM (#16).
const VALUE_FUNCTIONS: [&str; 14] = [
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "localtime",
    "localtimestamp",
    "session_user",
    "system_user",
    "user",
    "public",
];

/// Special forms of PostgreSQL's grammar that `sqlparser` takes for functions (#18); they read nothing. Older servers know some of them
/// as names of functions: `guard::Subject::functions` judges those.
const FORMS: [&str; 44] = [
    "all",
    "array",
    "cast",
    "ceil",
    "coalesce",
    "collation",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "exists",
    "floor",
    "greatest",
    "grouping",
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
    "least",
    "localtime",
    "localtimestamp",
    "merge_action",
    "normalize",
    "nullif",
    "row",
    "session_user",
    "treat",
    "user",
    "values",
    "xmlconcat",
    "xmlelement",
    "xmlforest",
    "xmlparse",
    "xmlroot",
    "xmlserialize",
];

/// How a table is partitioned (`partition_strategy` of PostgreSQL's grammar): `sqlparser` takes the words behind PARTITION BY for a call.
pub const STRATEGIES: [&str; 3] = ["hash", "list", "range"];

/// Forms of SQL/XML, and the keywords in them that `sqlparser` keeps as identifiers. Elsewhere these are names like any other.
const XML_FORMS: [&str; 3] = ["xmlparse", "xmlroot", "xmlserialize"];
const XML_WORDS: [&str; 3] = ["content", "document", "version"];

/// Keywords that `sqlparser` keeps as identifiers: units of EXTRACT and INTERVAL, forms of NORMALIZE, `b ISNULL` as an alias (#3), parts of SET and SHOW.
const WORDS: [&str; 35] = [
    "all",
    "century",
    "day",
    "days",
    "decade",
    "dow",
    "doy",
    "epoch",
    "hour",
    "hours",
    "isnull",
    "isodow",
    "isoyear",
    "local",
    "microseconds",
    "millennium",
    "milliseconds",
    "minute",
    "minutes",
    "month",
    "months",
    "nfc",
    "nfd",
    "nfkc",
    "nfkd",
    "notnull",
    "off",
    "on",
    "quarter",
    "second",
    "seconds",
    "timezone",
    "week",
    "year",
    "years",
];

/// A relation that is none.
pub fn relation(parts: &[String]) -> bool {
    matches!(parts, [one] if VALUE_FUNCTIONS.contains(&one.as_str()))
}

/// A function that is none.
pub fn function(name: &str) -> bool {
    FORMS.contains(&name)
}

/// An identifier that is none, in a text with these functions.
pub fn name<'f>(name: &str, mut functions: impl Iterator<Item = &'f str>) -> bool {
    VALUE_FUNCTIONS.contains(&name)
        || WORDS.contains(&name)
        || FORMS.contains(&name)
        || XML_WORDS.contains(&name) && functions.any(|f| XML_FORMS.contains(&f))
}

//! PostgreSQL's parse tree as plain data: one kind of node, named children, nothing left out.
//!
//! `pg_query` gives some 270 node types. Walks that name the fields they know forget the fields they do not, and a
//! forgotten field is a leak. So the typed tree is turned once, through its `serde` derivation, into [`Tree`]: every
//! field of every struct is in it under its own name, by construction. Walks over it see everything; code that
//! understands a node asks for its fields by name.
//!
//! What this file does not do: decide anything. Statement kinds are matched on the typed tree (`statement.rs`),
//! expression kinds against the list in `expression.rs`; both refuse what they do not name.

use serde::Serialize;
use serde::ser::{
    Impossible, SerializeSeq, SerializeStruct, SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// A node, list or scalar of the parse tree.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    /// Absent.
    Null,
    /// Booleans of the grammar.
    Flag(bool),
    /// Integers and enumerations (by PostgreSQL's number).
    Int(i64),
    /// Strings.
    Text(String),
    /// Lists.
    List(Vec<Tree>),
    /// A struct of `pg_query`, by its Rust name (`SelectStmt`, `AExpr` …), and its fields.
    Node(&'static str, Vec<(&'static str, Tree)>),
}

static NULL: Tree = Tree::Null;

impl Tree {
    /// The tree of any part of a parse result.
    ///
    /// # Errors
    /// Where the serde form holds something that no parse tree holds.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, Strange> {
        value.serialize(Maker)
    }

    /// Struct name, or the empty string.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Node(kind, _) => kind,
            Self::Null | Self::Flag(_) | Self::Int(_) | Self::Text(_) | Self::List(_) => "",
        }
    }

    /// A field of a node; `Null` where there is none.
    #[must_use]
    pub fn field(&self, name: &str) -> &Tree {
        match self {
            Self::Node(_, fields) => fields.iter().find(|(n, _)| *n == name).map_or(&NULL, |(_, t)| t),
            Self::Null | Self::Flag(_) | Self::Int(_) | Self::Text(_) | Self::List(_) => &NULL,
        }
    }

    /// A list field; empty where there is none.
    #[must_use]
    pub fn list(&self, name: &str) -> &[Tree] {
        match self.field(name) {
            Self::List(items) => items,
            Self::Null | Self::Flag(_) | Self::Int(_) | Self::Text(_) | Self::Node(..) => &[],
        }
    }

    /// A string field; empty where there is none (protobuf has no absent string).
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        match self.field(name) {
            Self::Text(text) => text,
            Self::Null | Self::Flag(_) | Self::Int(_) | Self::List(_) | Self::Node(..) => "",
        }
    }

    /// An integer field; 0 where there is none.
    #[must_use]
    pub fn int(&self, name: &str) -> i64 {
        match self.field(name) {
            Self::Int(value) => *value,
            Self::Null | Self::Flag(_) | Self::Text(_) | Self::List(_) | Self::Node(..) => 0,
        }
    }

    /// A boolean field.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.field(name), Self::Flag(true))
    }

    /// Byte offset in the text; `None` where the grammar gives none (-1).
    #[must_use]
    pub fn location(&self) -> Option<usize> {
        match self.field("location") {
            Self::Int(value) => usize::try_from(*value).ok(),
            Self::Null | Self::Flag(_) | Self::Text(_) | Self::List(_) | Self::Node(..) => None,
        }
    }

    /// Whether it is absent.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Direct children that are nodes or lists, in field order.
    pub fn children(&self) -> impl Iterator<Item = &Tree> {
        let (fields, items): (&[(&'static str, Tree)], &[Tree]) = match self {
            Self::Node(_, fields) => (fields, &[]),
            Self::List(items) => (&[], items),
            Self::Null | Self::Flag(_) | Self::Int(_) | Self::Text(_) => (&[], &[]),
        };
        fields
            .iter()
            .map(|(_, t)| t)
            .chain(items)
            .filter(|t| matches!(t, Self::Node(..) | Self::List(_)))
    }

    /// Visits this and every node below; `visit` says whether to go below a node.
    pub fn walk<'t>(&'t self, visit: &mut dyn FnMut(&'t Tree) -> bool) {
        if visit(self) {
            for child in self.children() {
                child.walk(visit);
            }
        }
    }

    /// Memory that it takes, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let below = match self {
            Self::Null | Self::Flag(_) | Self::Int(_) => 0,
            Self::Text(text) => text.len(),
            Self::List(items) => items.iter().map(Self::bytes).sum(),
            Self::Node(_, fields) => fields.iter().map(|(_, tree)| size_of::<&str>() + tree.bytes()).sum(),
        };
        size_of::<Self>() + below
    }

    /// Levels of nodes and lists.
    #[must_use]
    pub fn depth(&self) -> usize {
        1 + self.children().map(Tree::depth).max().unwrap_or(0)
    }

    /// The strings of a list of `String` nodes (names with dots); `*` for `AStar`. `None` where anything else is in it.
    #[must_use]
    pub fn names(&self, field: &str) -> Option<Vec<String>> {
        self.list(field)
            .iter()
            .map(|item| match item.kind() {
                "String" => Some(item.text("sval").to_owned()),
                "AStar" => Some("*".to_owned()),
                _ => None,
            })
            .collect()
    }

    /// Sets every field that only tells a place in the text to zero, so that trees of different texts compare.
    pub fn strip_locations(&mut self) {
        match self {
            Self::Node(_, fields) => {
                for (name, value) in fields {
                    if LOCATIONS.contains(name) && matches!(value, Self::Int(_)) {
                        *value = Self::Int(0);
                    } else {
                        value.strip_locations();
                    }
                }
            }
            Self::List(items) => items.iter_mut().for_each(Self::strip_locations),
            Self::Null | Self::Flag(_) | Self::Int(_) | Self::Text(_) => {}
        }
    }
}

/// Integer fields of the grammar that are byte offsets or lengths in the text, and nothing else.
const LOCATIONS: [&str; 12] = [
    "location",
    "stmt_location",
    "stmt_len",
    "arg_location",
    "name_location",
    "list_start",
    "list_end",
    "rexpr_list_start",
    "rexpr_list_end",
    "conninfo_location",
    "payload_location",
    "old_conpfeqop_location",
];

/// The serde form held something that no parse tree holds.
#[derive(Debug, thiserror::Error)]
#[error("parse tree: {0}")]
pub struct Strange(String);

impl serde::ser::Error for Strange {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

struct Maker;

struct Items(Vec<Tree>);

struct Fields {
    kind: &'static str,
    fields: Vec<(&'static str, Tree)>,
}

fn strange<T>(what: &str) -> Result<T, Strange> {
    Err(Strange(format!("unexpected {what}")))
}

impl Serializer for Maker {
    type Ok = Tree;
    type Error = Strange;
    type SerializeSeq = Items;
    type SerializeTuple = Items;
    type SerializeTupleStruct = Items;
    type SerializeTupleVariant = Items;
    type SerializeMap = Impossible<Tree, Strange>;
    type SerializeStruct = Fields;
    type SerializeStructVariant = Impossible<Tree, Strange>;

    fn serialize_bool(self, v: bool) -> Result<Tree, Strange> {
        Ok(Tree::Flag(v))
    }
    fn serialize_i8(self, v: i8) -> Result<Tree, Strange> {
        Ok(Tree::Int(v.into()))
    }
    fn serialize_i16(self, v: i16) -> Result<Tree, Strange> {
        Ok(Tree::Int(v.into()))
    }
    fn serialize_i32(self, v: i32) -> Result<Tree, Strange> {
        Ok(Tree::Int(v.into()))
    }
    fn serialize_i64(self, v: i64) -> Result<Tree, Strange> {
        Ok(Tree::Int(v))
    }
    fn serialize_u8(self, v: u8) -> Result<Tree, Strange> {
        Ok(Tree::Int(v.into()))
    }
    fn serialize_u16(self, v: u16) -> Result<Tree, Strange> {
        Ok(Tree::Int(v.into()))
    }
    fn serialize_u32(self, v: u32) -> Result<Tree, Strange> {
        Ok(Tree::Int(v.into()))
    }
    fn serialize_u64(self, v: u64) -> Result<Tree, Strange> {
        i64::try_from(v).map(Tree::Int).or_else(|_| strange("unsigned number"))
    }
    fn serialize_f32(self, v: f32) -> Result<Tree, Strange> {
        Ok(Tree::Text(v.to_string()))
    }
    fn serialize_f64(self, v: f64) -> Result<Tree, Strange> {
        Ok(Tree::Text(v.to_string()))
    }
    fn serialize_char(self, v: char) -> Result<Tree, Strange> {
        Ok(Tree::Text(v.to_string()))
    }
    fn serialize_str(self, v: &str) -> Result<Tree, Strange> {
        Ok(Tree::Text(v.to_owned()))
    }
    fn serialize_bytes(self, _: &[u8]) -> Result<Tree, Strange> {
        strange("bytes")
    }
    fn serialize_none(self) -> Result<Tree, Strange> {
        Ok(Tree::Null)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Tree, Strange> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<Tree, Strange> {
        Ok(Tree::Null)
    }
    fn serialize_unit_struct(self, name: &'static str) -> Result<Tree, Strange> {
        Ok(Tree::Node(name, Vec::new()))
    }
    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Result<Tree, Strange> {
        Ok(Tree::Int(index.into()))
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<Tree, Strange> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<Tree, Strange> {
        // `Node::SelectStmt(SelectStmt)`: the struct below carries the name.
        value.serialize(self)
    }
    fn serialize_seq(self, len: Option<usize>) -> Result<Items, Strange> {
        Ok(Items(Vec::with_capacity(len.unwrap_or(0))))
    }
    fn serialize_tuple(self, len: usize) -> Result<Items, Strange> {
        Ok(Items(Vec::with_capacity(len)))
    }
    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Items, Strange> {
        Ok(Items(Vec::with_capacity(len)))
    }
    fn serialize_tuple_variant(self, _: &'static str, _: u32, _: &'static str, len: usize) -> Result<Items, Strange> {
        Ok(Items(Vec::with_capacity(len)))
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Strange> {
        strange("map")
    }
    fn serialize_struct(self, kind: &'static str, len: usize) -> Result<Fields, Strange> {
        Ok(Fields {
            kind,
            fields: Vec::with_capacity(len),
        })
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Strange> {
        strange("struct variant")
    }
}

impl SerializeSeq for Items {
    type Ok = Tree;
    type Error = Strange;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Strange> {
        self.0.push(value.serialize(Maker)?);
        Ok(())
    }
    fn end(self) -> Result<Tree, Strange> {
        Ok(Tree::List(self.0))
    }
}

impl SerializeTuple for Items {
    type Ok = Tree;
    type Error = Strange;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Strange> {
        SerializeSeq::serialize_element(self, value)
    }
    fn end(self) -> Result<Tree, Strange> {
        SerializeSeq::end(self)
    }
}

impl SerializeTupleStruct for Items {
    type Ok = Tree;
    type Error = Strange;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Strange> {
        SerializeSeq::serialize_element(self, value)
    }
    fn end(self) -> Result<Tree, Strange> {
        SerializeSeq::end(self)
    }
}

impl SerializeTupleVariant for Items {
    type Ok = Tree;
    type Error = Strange;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Strange> {
        SerializeSeq::serialize_element(self, value)
    }
    fn end(self) -> Result<Tree, Strange> {
        SerializeSeq::end(self)
    }
}

impl SerializeStruct for Fields {
    type Ok = Tree;
    type Error = Strange;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Strange> {
        let value = value.serialize(Maker)?;
        // `xpr` repeats nothing: the raw grammar leaves it empty.
        self.fields.push((key, value));
        Ok(())
    }
    fn end(mut self) -> Result<Tree, Strange> {
        // `Node { node: Some(…) }` is only a wrapper.
        if self.kind == "Node" && self.fields.len() == 1 {
            return Ok(self.fields.pop().map_or(Tree::Null, |(_, t)| t));
        }
        Ok(Tree::Node(self.kind, self.fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(sql: &str) -> Tree {
        Tree::of(
            &pg_query::parse(sql, pg_query::ParserOptions::default())
                .unwrap()
                .protobuf,
        )
        .unwrap()
    }

    #[test]
    fn every_range_var_is_found_wherever_it_stands() {
        let sql = "WITH x AS (TABLE a) SELECT (SELECT 1 FROM b), ARRAY(TABLE c) FROM d JOIN e ON EXISTS (SELECT FROM f) \
                   WHERE g IN (SELECT 1 UNION TABLE h) ORDER BY (SELECT 1 FROM i) LIMIT (SELECT 1 FROM j)";
        let mut found = Vec::new();
        tree(sql).walk(&mut |t| {
            if t.kind() == "RangeVar" {
                found.push(t.text("relname").to_owned());
            }
            true
        });
        found.sort();
        assert_eq!(found, ["a", "b", "c", "d", "e", "f", "h", "i", "j"]);
    }

    #[test]
    fn trees_compare_without_places() {
        let mut one = tree("select  a,/* x */ b from t where a in (1, 2)");
        let mut two = tree("SELECT a, b FROM t WHERE a IN (1,2)");
        assert_ne!(one, two);
        one.strip_locations();
        two.strip_locations();
        assert_eq!(one, two);
    }
}

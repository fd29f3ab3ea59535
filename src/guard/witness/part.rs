//! `sqlparser`'s tree as plain data, by its serde derivation: no field of any variant can be forgotten. It has the form that JSON of it would have,
//! without what names nothing: numbers, flags and places in the text.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde::ser::{
    self, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
    SerializeTupleVariant, Serializer,
};

/// A part of the tree.
#[derive(Debug, PartialEq)]
pub enum Part {
    /// What is absent.
    Null,
    /// A number or flag.
    Scalar,
    /// A string, a character, or the name of a variant without fields.
    Text(Cow<'static, str>),
    /// A list or tuple.
    List(Vec<Part>),
    /// A struct's fields; a variant is a struct of one field.
    Fields(Vec<(Cow<'static, str>, Part)>),
}

/// Structs that are places in the text.
const PLACES: [&str; 1] = ["Span"];

impl Part {
    /// Of anything that can be serialised.
    ///
    /// # Errors
    /// Where its own serialisation fails.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, Strange> {
        value.serialize(Maker)
    }

    /// The field of that name.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Fields(fields) => fields.iter().find(|(key, _)| key == name).map(|(_, part)| part),
            Self::Null | Self::Scalar | Self::Text(_) | Self::List(_) => None,
        }
    }

    /// The string that it is.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Scalar | Self::List(_) | Self::Fields(_) => None,
        }
    }

    fn variant(name: &'static str, part: Self) -> Self {
        Self::Fields(vec![(Cow::Borrowed(name), part)])
    }
}

/// A serialisation failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Strange(String);

impl ser::Error for Strange {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

struct Maker;

/// Elements of a list; of a variant where it has a name.
struct Items {
    variant: Option<&'static str>,
    items: Vec<Part>,
}

/// Fields of a struct or map; of a variant where it has a name.
struct Fields {
    variant: Option<&'static str>,
    /// Its fields are not looked at.
    is_place: bool,
    key: Option<Cow<'static, str>>,
    fields: Vec<(Cow<'static, str>, Part)>,
}

impl Items {
    fn new(variant: Option<&'static str>, length: usize) -> Result<Self, Strange> {
        let items = Vec::with_capacity(length);
        Ok(Self { variant, items })
    }

    fn add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Strange> {
        self.items.push(Part::of(value)?);
        Ok(())
    }

    fn done(self) -> Part {
        let list = Part::List(self.items);
        match self.variant {
            Some(name) => Part::variant(name, list),
            None => list,
        }
    }
}

impl Fields {
    fn new(variant: Option<&'static str>, is_place: bool, length: usize) -> Self {
        Self {
            variant,
            is_place,
            key: None,
            fields: Vec::with_capacity(if is_place { 0 } else { length }),
        }
    }

    fn add<T: Serialize + ?Sized>(&mut self, key: Cow<'static, str>, value: &T) -> Result<(), Strange> {
        if !self.is_place {
            self.fields.push((key, Part::of(value)?));
        }
        Ok(())
    }

    fn done(self) -> Part {
        if self.is_place {
            return Part::Scalar;
        }
        let fields = Part::Fields(self.fields);
        match self.variant {
            Some(name) => Part::variant(name, fields),
            None => fields,
        }
    }
}

macro_rules! scalars {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, _: $type) -> Result<Part, Strange> {
            Ok(Part::Scalar)
        })*
    };
}

impl Serializer for Maker {
    type Ok = Part;
    type Error = Strange;
    type SerializeSeq = Items;
    type SerializeTuple = Items;
    type SerializeTupleStruct = Items;
    type SerializeTupleVariant = Items;
    type SerializeMap = Fields;
    type SerializeStruct = Fields;
    type SerializeStructVariant = Fields;

    scalars!(
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128, serialize_f32: f32,
        serialize_f64: f64, serialize_bytes: &[u8]
    );

    fn serialize_char(self, character: char) -> Result<Part, Strange> {
        Ok(Part::Text(character.to_string().into()))
    }
    fn serialize_str(self, text: &str) -> Result<Part, Strange> {
        Ok(Part::Text(text.to_owned().into()))
    }
    fn serialize_none(self) -> Result<Part, Strange> {
        Ok(Part::Null)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Part, Strange> {
        Part::of(value)
    }
    fn serialize_unit(self) -> Result<Part, Strange> {
        Ok(Part::Null)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<Part, Strange> {
        Ok(Part::Null)
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Part, Strange> {
        Ok(Part::Text(Cow::Borrowed(variant)))
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<Part, Strange> {
        Part::of(value)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Part, Strange> {
        Ok(Part::variant(variant, Part::of(value)?))
    }
    fn serialize_seq(self, length: Option<usize>) -> Result<Items, Strange> {
        Items::new(None, length.unwrap_or(0))
    }
    fn serialize_tuple(self, length: usize) -> Result<Items, Strange> {
        Items::new(None, length)
    }
    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<Items, Strange> {
        Items::new(None, length)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Items, Strange> {
        Items::new(Some(variant), length)
    }
    fn serialize_map(self, length: Option<usize>) -> Result<Fields, Strange> {
        Ok(Fields::new(None, false, length.unwrap_or(0)))
    }
    fn serialize_struct(self, name: &'static str, length: usize) -> Result<Fields, Strange> {
        Ok(Fields::new(None, PLACES.contains(&name), length))
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Fields, Strange> {
        Ok(Fields::new(Some(variant), false, length))
    }
}

impl SerializeSeq for Items {
    type Ok = Part;
    type Error = Strange;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Strange> {
        self.add(value)
    }
    fn end(self) -> Result<Part, Strange> {
        Ok(self.done())
    }
}

impl SerializeTuple for Items {
    type Ok = Part;
    type Error = Strange;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Strange> {
        self.add(value)
    }
    fn end(self) -> Result<Part, Strange> {
        Ok(self.done())
    }
}

impl SerializeTupleStruct for Items {
    type Ok = Part;
    type Error = Strange;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Strange> {
        self.add(value)
    }
    fn end(self) -> Result<Part, Strange> {
        Ok(self.done())
    }
}

impl SerializeTupleVariant for Items {
    type Ok = Part;
    type Error = Strange;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Strange> {
        self.add(value)
    }
    fn end(self) -> Result<Part, Strange> {
        Ok(self.done())
    }
}

impl SerializeMap for Fields {
    type Ok = Part;
    type Error = Strange;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Strange> {
        self.key = Part::of(key)?.text().map(|text| text.to_owned().into());
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Strange> {
        let key = self.key.take().unwrap_or_default();
        self.add(key, value)
    }
    fn end(self) -> Result<Part, Strange> {
        Ok(self.done())
    }
}

impl SerializeStruct for Fields {
    type Ok = Part;
    type Error = Strange;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Strange> {
        self.add(Cow::Borrowed(key), value)
    }
    fn end(self) -> Result<Part, Strange> {
        Ok(self.done())
    }
}

impl SerializeStructVariant for Fields {
    type Ok = Part;
    type Error = Strange;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Strange> {
        self.add(Cow::Borrowed(key), value)
    }
    fn end(self) -> Result<Part, Strange> {
        Ok(self.done())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use sqlparser::dialect::PostgreSqlDialect;
    use sqlparser::parser::Parser;

    use super::*;

    /// Sorted by their keys, as in JSON, and without places.
    fn of_json(value: &Value) -> Part {
        match value {
            Value::Null => Part::Null,
            Value::Bool(_) | Value::Number(_) => Part::Scalar,
            Value::String(text) => Part::Text(text.clone().into()),
            Value::Array(items) => Part::List(items.iter().map(of_json).collect()),
            Value::Object(fields) if fields.len() == 2 && value["start"]["line"].is_number() => Part::Scalar,
            Value::Object(fields) => {
                let field = |(key, value): (&String, &Value)| (key.clone().into(), of_json(value));
                Part::Fields(fields.iter().map(field).collect())
            }
        }
    }

    fn sorted(part: Part) -> Part {
        match part {
            Part::List(items) => Part::List(items.into_iter().map(sorted).collect()),
            Part::Fields(fields) => {
                let mut fields: Vec<_> = fields.into_iter().map(|(key, part)| (key, sorted(part))).collect();
                fields.sort_by(|one, two| one.0.cmp(&two.0));
                Part::Fields(fields)
            }
            other => other,
        }
    }

    #[test]
    fn it_is_what_json_would_be() {
        for sql in [
            "SELECT a, b.\"C d\", f(x, 'y', 1.5), CASE WHEN a THEN 1 END FROM t AS u (k), LATERAL f(1) g JOIN s.v USING (id) WHERE a IN (SELECT 1)",
            "WITH RECURSIVE x AS (TABLE y) SELECT DISTINCT ON (a) *, x.* FROM x GROUP BY ROLLUP (a) HAVING count(*) > 1 WINDOW w AS (ORDER BY a)",
            "INSERT INTO t (a) VALUES (1), ($1) ON CONFLICT (a) DO UPDATE SET a = excluded.a RETURNING *; DELETE FROM t USING u WHERE t.a = u.a",
            "CREATE TABLE t (a int PRIMARY KEY, b text DEFAULT 'x' REFERENCES u (k)) PARTITION BY LIST (a); DROP TABLE a.b CASCADE",
            "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN UPDATE SET b = 1; SET a.b = 'c'; SHOW x; COPY t (a) TO STDOUT; EXPLAIN SELECT 1",
            "SELECT interval '1 day', date '2020-01-01', extract(year FROM a), a::int[], x[1:2], row(1, 2), array[1], -a ->> 'b', trim(BOTH 'x' FROM y)",
        ] {
            let statements = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap();
            let json = of_json(&serde_json::to_value(&statements).unwrap());
            assert_eq!(sorted(Part::of(&statements).unwrap()), sorted(json), "{sql}");
        }
    }
}

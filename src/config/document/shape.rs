//! Offers a node to serde.
//!
//! Unlike JSON's and YAML's own deserializers, a list is never taken for a mapping whose keys are left out.

use serde::{
    Deserializer,
    de::{
        Error as _, IntoDeserializer, Unexpected, Visitor,
        value::{MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::{Error, Value};

use super::tree::{Node, Tree};

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.tree {
            Tree::Scalar(value) => value.deserialize_any(visitor),
            Tree::List(nodes) => SeqDeserializer::new(nodes.iter().filter(|node| !node.cut)).deserialize_any(visitor),
            Tree::Map(entries) => {
                let kept = entries.iter().filter(|entry| !entry.node.cut);
                MapDeserializer::new(kept.map(|entry| (entry.key.as_str(), &entry.node))).deserialize_any(visitor)
            }
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.tree {
            Tree::List(_) => Err(Error::invalid_type(Unexpected::Seq, &visitor)),
            Tree::Scalar(_) | Tree::Map(_) => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.tree {
            Tree::Scalar(Value::Null) => visitor.visit_none(),
            Tree::Scalar(_) | Tree::List(_) | Tree::Map(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.json().deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for &'de Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

//! YAML as a tree of nodes with lines.

use std::{collections::HashMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, Error, MessageFormatter, Options, Spanned, UserMessageFormatter};

use super::{Place, Step};
use crate::config::values;

/// A value and its line: the line of its key in a mapping, else its own.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) tree: Tree,
    /// What `${NAME}` made of it.
    pub(super) expanded: Option<Expanded>,
    /// Whether it is left out of what is settled.
    pub(super) cut: bool,
}

#[derive(Debug)]
pub(super) enum Tree {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) node: Node,
}

#[derive(Debug)]
pub(super) struct Expanded {
    pub(super) written: String,
    pub(super) value: String,
}

/// Reads one YAML document. The error is a line and a message.
pub(super) fn parse(text: &str) -> Result<Node, (Option<u64>, String)> {
    let empty = || Node::new(1, Tree::Map(Vec::new()));
    // The parser takes a document of comments alone for one that ends too early.
    if text.lines().all(|line| line.trim_start().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(empty());
    }
    match serde_saphyr::from_str_with_options::<Tree>(text, options()) {
        Ok(Tree::Scalar(Value::Null)) => Ok(empty()),
        Ok(tree) => Ok(Node::new(1, tree)),
        Err(error) => Err((error.location().map(|location| location.line()), describe(&error))),
    }
}

impl Node {
    fn new(line: u64, tree: Tree) -> Self {
        Self { line, tree, expanded: None, cut: false }
    }

    /// Cuts out keys that are written twice and expands `${NAME}`, noting what is wrong with either.
    pub(super) fn prepare(
        &mut self,
        place: &Place,
        env: &dyn Fn(&str) -> Option<String>,
        found: &mut Vec<(Place, u64, String)>,
    ) {
        match &mut self.tree {
            Tree::Scalar(Value::String(text)) => match values::expand(text, env) {
                Ok(None) => {}
                Ok(Some(value)) => {
                    let written = std::mem::replace(text, value.clone());
                    self.expanded = Some(Expanded { written, value });
                }
                Err(message) => {
                    self.cut = true;
                    found.push((place.clone(), self.line, message));
                }
            },
            Tree::Scalar(_) => {}
            Tree::List(nodes) => {
                for (index, node) in nodes.iter_mut().enumerate() {
                    node.prepare(&place.index(index), env, found);
                }
            }
            Tree::Map(entries) => {
                let mut first = HashMap::new();
                for Entry { key, node } in entries {
                    let key: &str = key;
                    let place = place.key(key);
                    match first.get(key) {
                        None => {
                            first.insert(key, node.line);
                            node.prepare(&place, env, found);
                        }
                        Some(line) => {
                            node.cut = true;
                            found.push((place, node.line, format!("this key is written twice, first in line {line}")));
                        }
                    }
                }
            }
        }
    }

    /// Reads a text that came from the environment as the number or truth value that it spells. Works once.
    pub(super) fn infer(&mut self) -> bool {
        let (Some(_), Tree::Scalar(value)) = (&self.expanded, &mut self.tree) else { return false };
        let Some(text) = value.as_str() else { return false };
        let inferred = match serde_json::from_str::<Value>(text) {
            Ok(inferred @ (Value::Number(_) | Value::Bool(_))) => inferred,
            Ok(_) | Err(_) => return false,
        };
        *value = inferred;
        true
    }

    /// The value without what was cut.
    pub(super) fn json(&self) -> Value {
        match &self.tree {
            Tree::Scalar(value) => value.clone(),
            Tree::List(nodes) => Value::Array(nodes.iter().filter(|node| !node.cut).map(Self::json).collect()),
            Tree::Map(entries) => {
                let kept = entries.iter().filter(|entry| !entry.node.cut);
                Value::Object(kept.map(|entry| (entry.key.clone(), entry.node.json())).collect::<Map<_, _>>())
            }
        }
    }

    /// One step down, where indices count only what was not cut; with it the step whose index counts everything.
    pub(super) fn child(&self, step: &Step) -> Option<(&Self, Step)> {
        match (&self.tree, step) {
            (Tree::Map(_), Step::Key(_)) => self.at_step(step).map(|node| (node, step.clone())),
            (Tree::List(nodes), Step::Index(index)) => {
                let (original, node) = nodes.iter().enumerate().filter(|(_, node)| !node.cut).nth(*index)?;
                Some((node, Step::Index(original)))
            }
            (Tree::Scalar(_) | Tree::List(_) | Tree::Map(_), _) => None,
        }
    }

    /// The node at `place`, where indices count only what was not cut; with it the place in the file.
    pub(super) fn find(&self, place: &Place) -> Option<(&Self, Place)> {
        place.steps().iter().try_fold((self, Place::root()), |(node, found), step| {
            let (node, step) = node.child(step)?;
            Some((node, found.join([step])))
        })
    }

    /// The node at a place in the file.
    pub(super) fn at(&self, place: &Place) -> Option<&Self> {
        place.steps().iter().try_fold(self, Self::at_step)
    }

    /// The node at a place in the file.
    pub(super) fn at_mut(&mut self, place: &Place) -> Option<&mut Self> {
        place.steps().iter().try_fold(self, |node, step| match (&mut node.tree, step) {
            (Tree::Map(entries), Step::Key(key)) => {
                let index = position(entries, key)?;
                Some(&mut entries[index].node)
            }
            (Tree::List(nodes), Step::Index(index)) => nodes.get_mut(*index),
            (Tree::Scalar(_) | Tree::List(_) | Tree::Map(_), _) => None,
        })
    }

    fn at_step(&self, step: &Step) -> Option<&Self> {
        match (&self.tree, step) {
            (Tree::Map(entries), Step::Key(key)) => position(entries, key).map(|index| &entries[index].node),
            (Tree::List(nodes), Step::Index(index)) => nodes.get(*index),
            (Tree::Scalar(_) | Tree::List(_) | Tree::Map(_), _) => None,
        }
    }
}

/// Of a key that is written twice, the one that was not cut; of a key that was cut, that one.
fn position(entries: &[Entry], key: &str) -> Option<usize> {
    let kept = entries.iter().position(|entry| entry.key == key && !entry.node.cut);
    kept.or_else(|| entries.iter().position(|entry| entry.key == key))
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 32,
            flow_nesting_limit: 32,
            max_nodes: 100_000,
            max_events: 300_000,
            max_aliases: 100,
            max_anchors: 100,
            // The second one is refused by the parser itself, which says so.
            max_documents: 2,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 10_000,
            max_replay_stack_depth: 8,
        },
        // Both are kept by the visitor below, so that every one of them can be reported.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
        emit_comments: false,
    }
}

fn describe(error: &Error) -> String {
    match error.without_snippet() {
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "larger, deeper or with more aliases than a configuration may be".to_owned()
        }
        other => format!("not valid YAML: {}", UserMessageFormatter.format_message(other)),
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Tree, E> {
        Number::from_f64(value)
            .map(|number| Tree::Scalar(number.into()))
            .ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut nodes = Vec::new();
        while let Some(Spanned { value, referenced, .. }) = seq.next_element::<Spanned<Tree>>()? {
            nodes.push(Node::new(referenced.line(), value));
        }
        Ok(Tree::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(Spanned { value: key, referenced, .. }) = map.next_key::<Spanned<String>>()? {
            entries.push(Entry { key, node: Node::new(referenced.line(), map.next_value::<Tree>()?) });
        }
        Ok(Tree::Map(entries))
    }
}

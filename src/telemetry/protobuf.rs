//! Writes protobuf messages, and reads as much of an answer as tells what was rejected.
//!
//! A message is written once, in place, in its shortest form. Nothing is kept between messages and nothing is allocated but
//! the one buffer.

/// A buffer that messages are written into.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

/// What an attribute can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Number(i64),
    Flag(bool),
}

impl Writer {
    /// A writer with room for so many bytes.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// What was written.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Writes a field of bytes.
    pub(super) fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.key(field, LENGTH_DELIMITED);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// Writes a field of text.
    pub(super) fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    /// Writes a field that is an enumeration or an unsigned number.
    pub(super) fn number(&mut self, field: u32, number: u64) {
        self.key(field, VARINT);
        self.varint(number);
    }

    /// Writes a field of eight bytes.
    pub(super) fn fixed64(&mut self, field: u32, number: u64) {
        self.key(field, FIXED64);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// Writes a field of four bytes.
    pub(super) fn fixed32(&mut self, field: u32, number: u32) {
        self.key(field, FIXED32);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// Writes a field that is a message of its own.
    pub(super) fn message(&mut self, field: u32, fill: impl FnOnce(&mut Self)) {
        self.key(field, LENGTH_DELIMITED);
        let start = self.0.len();
        self.0.extend_from_slice(&[0; USUAL_LENGTH]);
        fill(self);
        let length = self.0.len() - start - USUAL_LENGTH;
        if varint_len(length as u64) == USUAL_LENGTH {
            self.0[start] = length as u8 | 0x80;
            self.0[start + 1] = (length >> 7) as u8;
        } else {
            let mut shortest = Self::default();
            shortest.varint(length as u64);
            self.0.splice(start..start + USUAL_LENGTH, shortest.0);
        }
    }

    /// Writes the beginning of a field that is a message of this length, which is to follow.
    pub(super) fn message_of(&mut self, field: u32, length: usize) {
        self.key(field, LENGTH_DELIMITED);
        self.varint(length as u64);
    }

    /// Writes a field that is a `KeyValue`. Its lengths are known beforehand.
    pub(super) fn key_value(&mut self, field: u32, key: &str, value: Value<'_>) {
        let any_value = 1 + match value {
            Value::Text(text) => varint_len(text.len() as u64) + text.len(),
            Value::Number(number) => varint_len(number.cast_unsigned()),
            Value::Flag(_) => 1,
        };
        let whole = 1 + varint_len(key.len() as u64) + key.len() + 1 + varint_len(any_value as u64) + any_value;
        self.0.reserve(whole + LONGEST_VARINT + LONGEST_VARINT);
        self.message_of(field, whole);
        self.text(1, key);
        self.message_of(2, any_value);
        match value {
            // These are written even if they are empty, zero or false: their presence tells the type.
            Value::Text(text) => self.text(1, text),
            Value::Flag(flag) => self.number(2, u64::from(flag)),
            Value::Number(number) => self.number(3, number.cast_unsigned()),
        }
    }

    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    fn varint(&mut self, mut number: u64) {
        while number > 0x7f {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u16> for Value<'_> {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// A field as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The last field of this number, which is the one that counts. Nothing of what is not a message.
pub(super) fn field(mut message: &[u8], number: u64) -> Option<Read<'_>> {
    let mut found = None;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let value = match key & 7 {
            wire if wire == u64::from(VARINT) => Some(Read::Number(varint(&mut message)?)),
            wire if wire == u64::from(LENGTH_DELIMITED) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                Some(Read::Bytes(message.split_off(..length)?))
            }
            wire if wire == u64::from(FIXED64) => message.split_off(..8).map(|_| None)?,
            wire if wire == u64::from(FIXED32) => message.split_off(..4).map(|_| None)?,
            _ => return None,
        };
        if key >> 3 == number {
            found = value;
        }
    }
    found
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..LONGEST_VARINT {
        let byte = *message.split_off_first()?;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn varint_len(number: u64) -> usize {
    let bits = 64 - (number | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH_DELIMITED: u32 = 2;
const FIXED32: u32 = 5;

/// A span has between 128 and 16,383 bytes, nearly always, so that its length takes two.
const USUAL_LENGTH: usize = 2;
const LONGEST_VARINT: usize = 10;

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::{
        collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse},
        common::v1::{AnyValue, KeyValue, any_value},
        resource::v1::Resource,
        trace::v1::{ResourceSpans, ScopeSpans, Span},
    };
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn value() -> impl Strategy<Value = any_value::Value> {
        prop_oneof![
            any::<String>().prop_map(any_value::Value::StringValue),
            "[a-z]{120,135}".prop_map(any_value::Value::StringValue),
            any::<i64>().prop_map(any_value::Value::IntValue),
            (-1000..1000_i64).prop_map(any_value::Value::IntValue),
            any::<bool>().prop_map(any_value::Value::BoolValue),
        ]
    }

    fn write(to: &mut Writer, field: u32, attribute: &KeyValue) {
        let value = match attribute.value.as_ref().and_then(|value| value.value.as_ref()).expect("each has a value") {
            any_value::Value::StringValue(text) => Value::Text(text),
            any_value::Value::IntValue(number) => Value::Number(*number),
            any_value::Value::BoolValue(flag) => Value::Flag(*flag),
            other => unreachable!("{other:?} is not made above"),
        };
        to.key_value(field, &attribute.key, value);
    }

    proptest! {
        #[test]
        fn whatever_attributes_are_they_arrive(
            written in prop::collection::vec((any::<String>(), value()), 0..40),
            start: u64,
            flags: u32,
            dropped: u32,
        ) {
            let attributes: Vec<KeyValue> = written
                .into_iter()
                .map(|(key, value)| KeyValue { key, value: Some(AnyValue { value: Some(value) }), ..Default::default() })
                .collect();
            let mut writer = Writer::default();
            writer.message(2, |to| {
                to.fixed64(7, start);
                attributes.iter().for_each(|attribute| write(to, 9, attribute));
                to.number(10, dropped.into());
                to.fixed32(16, flags);
            });
            let bytes = writer.into_bytes();
            let span = Span {
                start_time_unix_nano: start,
                attributes,
                dropped_attributes_count: dropped,
                flags,
                ..Span::default()
            };
            prop_assert_eq!(ScopeSpans::decode(&*bytes).unwrap().spans, [span]);
        }

        #[test]
        fn a_message_of_any_length_is_in_its_shortest_form(length in prop_oneof![1..300_usize, 16_000..17_000_usize]) {
            let span = Span { name: "x".repeat(length), ..Span::default() };
            let mut writer = Writer::default();
            writer.message(2, |to| to.message(2, |to| to.text(5, &span.name)));
            let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
            let expected = ResourceSpans { scope_spans, ..ResourceSpans::default() };
            prop_assert_eq!(writer.into_bytes(), expected.encode_to_vec());
        }

        #[test]
        fn reading_never_panics(bytes: Vec<u8>, number in 0..4_u64) {
            let _ = field(&bytes, number);
        }
    }

    #[test]
    fn a_number_of_rejected_spans_is_read() {
        for rejected_spans in [0, 1, 300, i64::MAX] {
            let partial = ExportTracePartialSuccess { rejected_spans, error_message: "too old".into() };
            let answer = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
            let Some(Read::Bytes(partial)) = field(&answer, 1) else { panic!("{answer:?}") };
            let expected = (rejected_spans != 0).then_some(Read::Number(rejected_spans as u64));
            assert_eq!(field(partial, 1), expected);
            assert_eq!(field(partial, 2), Some(Read::Bytes(b"too old")));
        }
        for broken in
            [&b"\x0a\x05abc"[..], b"\x0a", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"<html>", b"\x0b"]
        {
            assert_eq!(field(broken, 1), None, "{broken:?}");
        }
    }

    #[test]
    fn the_length_of_a_number_is_what_it_takes() {
        for number in (0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1, u64::MAX >> bit]) {
            let mut writer = Writer::default();
            writer.varint(number);
            assert_eq!(writer.0.len(), varint_len(number), "{number}");
        }
    }

    #[test]
    fn a_length_that_was_announced_is_a_message() {
        let mut writer = Writer::with_capacity(8);
        writer.message_of(1, 0);
        assert_eq!(ResourceSpans::decode(&*writer.into_bytes()).unwrap().resource, Some(Resource::default()));
    }
}

//! Parses JSON so strictly that no other parser can read it differently.
//!
//! Refused are duplicate keys (after unescaping, so `"meth\u006fd"` beside `"method"` too), nesting beyond a limit, data
//! after the value, a byte order mark, anything but UTF-8, and numbers that would change by being read: policy must see
//! exactly what the origin sees, whose parser is not known here.

use std::{cell::Cell, fmt};

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Deserializer, Map, Value};

use crate::refusal::Refusal;

/// Why a text is not accepted as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonFault {
    /// It is not JSON.
    Syntax,
    /// Something follows the value.
    TrailingData,
    /// An object has a key twice.
    DuplicateKey,
    /// It is nested deeper than the limit.
    TooDeep,
    /// A number can't be kept exactly.
    InexactNumber,
}

impl JsonFault {
    /// One sentence for the agent.
    pub fn description(self) -> &'static str {
        match self {
            Self::Syntax => "the body is not JSON in UTF-8",
            Self::TrailingData => "the body has data after its JSON value",
            Self::DuplicateKey => "the body has an object with a key twice",
            Self::TooDeep => "the body is nested too deeply",
            Self::InexactNumber => "the body has a number that can't be read without loss; send it as a string",
        }
    }

    /// The JSON-RPC error code that says so.
    pub fn code(self) -> i32 {
        match self {
            Self::Syntax | Self::TrailingData => -32700,
            Self::DuplicateKey | Self::TooDeep | Self::InexactNumber => -32600,
        }
    }
}

impl From<JsonFault> for Refusal {
    fn from(fault: JsonFault) -> Self {
        Self::MalformedMessage { code: fault.code(), detail: fault.description() }
    }
}

/// Parses one JSON text. `max_depth` counts the objects and arrays around the innermost value, 126 at most.
pub fn parse_strict(bytes: &[u8], max_depth: usize) -> Result<Value, JsonFault> {
    let fault = Cell::new(None);
    let mut parser = Deserializer::from_slice(bytes);
    let strict = Strict { depth: max_depth.min(PARSER_DEPTH), fault: &fault };
    let value = strict.deserialize(&mut parser).map_err(|_| fault.get().unwrap_or(JsonFault::Syntax))?;
    parser.end().map_err(|_| JsonFault::TrailingData)?;
    if numbers(bytes).all(is_exact) { Ok(value) } else { Err(JsonFault::InexactNumber) }
}

/// Builds a value, and notes why it stopped: the parser's own error can't carry that.
#[derive(Clone, Copy)]
struct Strict<'a> {
    depth: usize,
    fault: &'a Cell<Option<JsonFault>>,
}

impl Strict<'_> {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Self { depth, ..self }),
            None => Err(self.stop(JsonFault::TooDeep)),
        }
    }

    fn stop<E: de::Error>(self, fault: JsonFault) -> E {
        self.fault.set(Some(fault));
        E::custom(fault.description())
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // Minus zero equals zero everywhere but in a comparison of bits.
        Ok(if value == 0.0 { 0.0 } else { value }.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = array.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut members = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            if members.contains_key(&key) {
                return Err(self.stop(JsonFault::DuplicateKey));
            }
            members.insert(key, object.next_value_seed(inner)?);
        }
        Ok(Value::Object(members))
    }
}

/// The texts of the numbers in valid JSON. The parser gives their values only, which is too late.
fn numbers(json: &[u8]) -> impl Iterator<Item = &str> {
    let mut rest = json;
    std::iter::from_fn(move || {
        loop {
            let start = rest.iter().position(|byte| matches!(byte, b'"' | b'-' | b'0'..=b'9'))?;
            rest = &rest[start..];
            if rest[0] == b'"' {
                rest = &rest[string_length(rest)..];
                continue;
            }
            let in_number = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
            let (number, after) = rest.split_at(rest.iter().position(|byte| !in_number(byte)).unwrap_or(rest.len()));
            rest = after;
            return Some(std::str::from_utf8(number).expect("only ASCII was taken"));
        }
    })
}

/// The length of the string literal at the start, quotes included.
fn string_length(json: &[u8]) -> usize {
    let mut at = 1;
    while at < json.len() && json[at] != b'"' {
        at += if json[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(json.len())
}

/// Whether a number is what its value writes: an integer of 64 bits, or a decimal that a double keeps.
fn is_exact(text: &str) -> bool {
    if !text.contains(['.', 'e', 'E']) {
        return text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok();
    }
    let written = Decimal::of(text);
    text.parse::<f64>().is_ok_and(|value| {
        // Where a double lies halfway between two shortest texts, printers differ in which of them they write.
        value.is_finite()
            && (written == Decimal::of(&format!("{value:e}"))
                || serde_json::Number::from_f64(value)
                    .is_some_and(|number| written == Decimal::of(&number.to_string())))
    })
}

/// A decimal number without its sign: `0.digits` times ten to the exponent; no digits for zero.
#[derive(PartialEq, Eq)]
struct Decimal {
    digits: String,
    exponent: i64,
}

impl Decimal {
    fn of(text: &str) -> Self {
        let text = text.trim_start_matches('-');
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let significant = all.trim_start_matches('0');
        let digits = significant.trim_end_matches('0').to_owned();
        if digits.is_empty() {
            return Self { digits, exponent: 0 };
        }
        // An exponent beyond i64 belongs to a number that became zero or infinite, which differs by its digits already.
        let exponent = exponent.parse::<i64>().unwrap_or(i64::MAX).saturating_add_unsigned(whole.len() as u64);
        Self { exponent: exponent.saturating_sub_unsigned((all.len() - significant.len()) as u64), digits }
    }
}

/// One less than the parser's own limit, beyond which it reports bad syntax.
const PARSER_DEPTH: usize = 126;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn fault(text: &[u8]) -> Option<JsonFault> {
        parse_strict(text, 64).err()
    }

    #[test]
    fn ordinary_json_is_parsed() {
        let text = r#" {"a": [1, -2, 0.5, 1e3, true, null, "x\u00e9\"\\"], "b": {}, "": 18446744073709551615} "#;
        let expected = json!({"a": [1, -2, 0.5, 1000.0, true, null, "xé\"\\"], "b": {}, "": u64::MAX});
        assert_eq!(parse_strict(text.as_bytes(), 64), Ok(expected));
        assert_eq!(parse_strict(b"\"x\"", 0), Ok(json!("x")));
    }

    #[test]
    fn a_duplicate_key_is_refused() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"method":"a","meth\u006fd":"b"}"#,
            r#"[{"x":{"k":1,"\u006b":2}}]"#,
            r#"{"":1,"":2}"#,
        ] {
            assert_eq!(fault(text.as_bytes()), Some(JsonFault::DuplicateKey), "{text}");
        }
        assert_eq!(fault(br#"{"a":{"a":1},"A":2}"#), None);
    }

    #[test]
    fn what_is_not_one_json_text_in_utf8_is_refused() {
        let table: [&[u8]; 17] = [
            b"",
            b" ",
            b"{",
            b"[1,]",
            b"{'a':1}",
            b"{\"a\":NaN}",
            b"Infinity",
            b"+1",
            b"01",
            b".5",
            b"1.",
            b"tru",
            b"\xef\xbb\xbf{}",
            b"\xff\xfe{\0}\0",
            b"\"\xc0\xae\"",
            b"\"\\ud800\"",
            b"\"a\nb\"",
        ];
        for text in table {
            assert_eq!(fault(text), Some(JsonFault::Syntax), "{text:?}");
        }
        for text in ["{} {}", "{}x", "1 2", "[]]", "{}\u{0}", "null//", "0x1"] {
            assert_eq!(fault(text.as_bytes()), Some(JsonFault::TrailingData), "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse_strict(nested(64).as_bytes(), 64).is_ok());
        assert_eq!(parse_strict(nested(65).as_bytes(), 64), Err(JsonFault::TooDeep));
        assert_eq!(parse_strict(b"{\"a\":{}}", 1), Err(JsonFault::TooDeep));
        assert!(parse_strict(nested(126).as_bytes(), 1000).is_ok());
        assert_eq!(parse_strict(nested(127).as_bytes(), 1000), Err(JsonFault::TooDeep));
        assert_eq!(parse_strict(nested(100_000).as_bytes(), 1000), Err(JsonFault::TooDeep));
    }

    #[test]
    fn a_number_that_would_change_is_refused() {
        for text in [
            "0",
            "-0",
            "-0.0",
            "1",
            "-9223372036854775808",
            "18446744073709551615",
            "0.1",
            "1.10",
            "1e22",
            "1E+2",
            "100e-2",
            "0.30000000000000004",
            "1.7976931348623157e308",
            "5e-324",
            "0e999999999999999999999",
            "123456789.25",
            "-0.000001",
            "1e23",
            "1000000000000000000000.0",
        ] {
            assert_eq!(fault(text.as_bytes()), None, "{text}");
        }
        for text in [
            "18446744073709551616",
            "-9223372036854775809",
            "123456789012345678901234567890",
            "3.141592653589793238",
            "1e-400",
            "0.1000000000000000055511151231257827",
            "9007199254740993.0",
            "[1,{\"a\":1e-999999999999999999999}]",
            "4e-324",
        ] {
            assert_eq!(fault(text.as_bytes()), Some(JsonFault::InexactNumber), "{text}");
        }
        assert!(fault(b"1e400").is_some());
        assert_eq!(fault(br#"{"18446744073709551616": "18446744073709551616 \" 99999999999999999999"}"#), None);
    }

    proptest! {
        #[test]
        fn every_double_and_every_integer_passes(double in any::<f64>(), integer in any::<i64>()) {
            prop_assume!(double.is_finite());
            let text = serde_json::to_string(&json!({"d": double, "i": integer})).unwrap();
            let value = parse_strict(text.as_bytes(), 64).unwrap();
            prop_assert_eq!(value["d"].as_f64(), Some(double));
            prop_assert_eq!(value["i"].as_i64(), Some(integer));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_strict(&bytes, 64);
        }

        #[test]
        fn no_json_like_text_panics(text in "[\\[\\]{}\":,0-9eE.+\\\\ a-]{0,40}") {
            let _ = parse_strict(text.as_bytes(), 8);
        }
    }
}

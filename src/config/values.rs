//! The notations of single values: durations, sizes, days, places of secrets, host patterns and `${NAME}`.
//!
//! Each is read in exactly one way and written back in the same one. No message from here repeats a value, because a
//! value may have come from the environment.

use std::{
    borrow::Cow,
    fmt,
    marker::PhantomData,
    path::PathBuf,
    str::FromStr,
    time::{Duration, SystemTime},
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::HostPattern;
use crate::call::http::{CanonicalHost, canonical_host};

/// A length of time as people write it: `10ms`, `30s`, `15m`, `1h`, `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(pub Duration);

/// A number of bytes as people write it: `512B`, `64KiB`, `1MiB`, or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// A day of the calendar: `2027-01-31`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day(jiff::civil::Date);

/// Where a secret stands. The secret itself never stands in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecretPlace {
    /// In this file. Example: `/run/secrets/client-secret`.
    File(PathBuf),
    /// In this environment variable of the sidecar. Example: `CLIENT_SECRET`.
    Env(String),
}

impl Day {
    /// The moment at which this day is over in UTC.
    pub fn end(self) -> Option<SystemTime> {
        let midnight = self.0.tomorrow().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some(midnight.timestamp().into())
    }
}

/// Reads a host as configured: a name, an IP literal, or `*.suffix`. The result is canonical.
pub fn host_pattern(text: &str) -> Result<HostPattern, &'static str> {
    let Some(suffix) = text.strip_prefix("*.") else {
        if text.contains('*') {
            return Err("`*` stands only at the front, for whole labels, as in `*.example.com`");
        }
        return host(text).map(|host| HostPattern::Exact(host.into_string()));
    };
    let suffix = host(suffix)?;
    if suffix.ip().is_some() {
        return Err("a wildcard covers names, not addresses");
    }
    if !suffix.as_str().contains('.') {
        return Err("a wildcard needs two labels or more behind it, as in `*.example.com`");
    }
    Ok(HostPattern::Suffix(format!(".{suffix}")))
}

/// Replaces each `${NAME}` by the variable's value; `$${` stands for a literal `${`. `None`: nothing to replace.
pub fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(before) = rest[..start].strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        expanded.push_str(&rest[..start]);
        let inner = &rest[start + 2..];
        let end = inner.find('}').ok_or("`${` without `}`; write `$${` for the characters themselves")?;
        let name = &inner[..end];
        if !is_variable(name) {
            return Err("`${…}` takes the name of one environment variable and nothing else".to_owned());
        }
        expanded.push_str(&env(name).ok_or_else(|| format!("environment variable {name} is not set"))?);
        rest = &inner[end + 1..];
    }
    expanded.push_str(rest);
    Ok(Some(expanded))
}

fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The canonical form of a request's host is used here too, so that the two can only agree.
fn host(text: &str) -> Result<CanonicalHost, &'static str> {
    canonical_host(text).map_err(|_| "not a host; give a name or an address alone, without scheme, port or path")
}

impl FromStr for Period {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut total = Duration::ZERO;
        let mut rest = text;
        loop {
            let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).ok_or(NOT_A_PERIOD)?);
            let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
            let (_, millis) = PERIOD_UNITS.iter().find(|(name, _)| *name == unit).ok_or(NOT_A_PERIOD)?;
            let number: u64 = number.parse().map_err(|_| NOT_A_PERIOD)?;
            let part = Duration::from_millis(number.checked_mul(*millis).ok_or(TOO_LONG)?);
            total = total.checked_add(part).ok_or(TOO_LONG)?;
            if tail.is_empty() {
                break;
            }
            rest = tail;
        }
        if total > LONGEST { Err(TOO_LONG) } else { Ok(Self(total)) }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let unit = PERIOD_UNITS
            .iter()
            .find(|(_, unit)| millis >= u128::from(*unit) && millis.is_multiple_of(u128::from(*unit)));
        match unit {
            Some((name, unit)) => write!(f, "{}{name}", millis / u128::from(*unit)),
            None => f.write_str("0s"),
        }
    }
}

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let (_, bytes) =
            SIZE_UNITS.iter().find(|(name, _)| *name == unit || unit.is_empty() && *name == "B").ok_or(NOT_A_SIZE)?;
        let number: u64 = number.parse().map_err(|_| NOT_A_SIZE)?;
        number.checked_mul(*bytes).map(Self).ok_or(NOT_A_SIZE)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZE_UNITS.iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        match unit {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => f.write_str("0B"),
        }
    }
}

impl FromStr for Day {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const NOT_A_DAY: &str = "expected a day such as `2027-01-31`";
        if text.len() != 10 {
            return Err(NOT_A_DAY);
        }
        jiff::civil::Date::strptime("%Y-%m-%d", text).map(Self).map_err(|_| NOT_A_DAY)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text("a duration such as `10ms`, `30s`, `15m` or `1h`", PhantomData))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text("a size such as `64KiB` or `1MiB`", PhantomData))
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text("a day such as `2027-01-31`", PhantomData))
    }
}

impl<'de> Deserialize<'de> for SecretPlace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Through a value, so that no message of serde can repeat a secret that was written here by mistake.
        let value = serde_json::Value::deserialize(deserializer).map_err(|_| de::Error::custom(NOT_A_PLACE))?;
        let only = value.as_object().filter(|map| map.len() == 1).and_then(|map| map.iter().next());
        match only.and_then(|(key, value)| Some((key.as_str(), value.as_str()?))) {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("env", name)) if is_variable(name) => Ok(Self::Env(name.to_owned())),
            _ => Err(de::Error::custom(NOT_A_PLACE)),
        }
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Period {
    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A length of time: a number and `ms`, `s`, `m`, `h` or `d`, once or more.",
            "pattern": "^([0-9]+(ms|s|m|h|d))+$",
            "examples": ["10ms", "30s", "15m", "1h30m"],
        })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "description": "A number of bytes: a number and `B`, `KiB`, `MiB` or `GiB`, or a number alone.",
            "pattern": "^[0-9]+(B|KiB|MiB|GiB)?$",
            "minimum": 0,
            "examples": ["64KiB", "1MiB", 4096],
        })
    }
}

impl JsonSchema for Day {
    fn schema_name() -> Cow<'static, str> {
        "Day".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date", "examples": ["2027-01-31"]})
    }
}

/// Reads a type from its text; a bare number counts as its digits.
struct Text<T>(&'static str, PhantomData<T>);

impl<T: FromStr<Err = &'static str>> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
}

/// Largest first, so that a period is written in the largest unit that divides it.
const PERIOD_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
/// Far enough from the end of every clock that adding it to now can't overflow.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

const NOT_A_PERIOD: &str = "expected a duration such as `10ms`, `30s`, `15m` or `1h`";
const TOO_LONG: &str = "a duration is at most 10 years";
const NOT_A_SIZE: &str = "expected a size such as `64KiB` or `1MiB`";
const NOT_A_PLACE: &str = "expected `{file: PATH}` or `{env: NAME}`; a secret itself never stands in the configuration";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_written_as_it_is_read() {
        for (text, millis, back) in [
            ("10ms", 10, "10ms"),
            ("30s", 30_000, "30s"),
            ("90s", 90_000, "90s"),
            ("15m", 900_000, "15m"),
            ("60m", 3_600_000, "1h"),
            ("1h30m", 5_400_000, "90m"),
            ("2d", 172_800_000, "2d"),
            ("0s", 0, "0s"),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!(period.0, Duration::from_millis(millis), "{text}");
            assert_eq!(period.to_string(), back);
        }
    }

    #[test]
    fn what_is_no_period_is_refused() {
        for text in [
            "",
            "10",
            "s",
            "-1s",
            "1 s",
            "1.5s",
            "10S",
            "1w",
            "s1",
            "10ms ",
            "99999999999999999999h",
            "100000h",
            "1h30",
        ] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_is_written_as_it_is_read() {
        for (text, bytes, back) in [
            ("64KiB", 65_536, "64KiB"),
            ("1MiB", 1 << 20, "1MiB"),
            ("1024", 1024, "1KiB"),
            ("7B", 7, "7B"),
            ("0", 0, "0B"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, back), "{text}");
        }
        for text in ["", "KiB", "1KB", "1k", "-1", "1.5MiB", "99999999999999GiB", "1 MiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_day_ends_at_midnight_in_utc() {
        let day: Day = "2027-01-31".parse().unwrap();
        assert_eq!(day.end(), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_801_440_000)));
        assert_eq!(day.to_string(), "2027-01-31");
        for text in ["2027-02-30", "2027-1-31", "20270131", "31.01.2027", "2027-01-31T00:00:00Z", ""] {
            assert!(text.parse::<Day>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_becomes_canonical() {
        let exact = |text: &str| Ok(HostPattern::Exact(text.to_owned()));
        let suffix = |text: &str| Ok(HostPattern::Suffix(text.to_owned()));
        assert_eq!(host_pattern("API.GitHub.com"), exact("api.github.com"));
        assert_eq!(host_pattern("api.github.com."), exact("api.github.com"));
        assert_eq!(host_pattern("bücher.example"), exact("xn--bcher-kva.example"));
        assert_eq!(host_pattern("localhost"), exact("localhost"));
        assert_eq!(host_pattern("my_service"), exact("my_service"));
        assert_eq!(host_pattern("10.0.0.1"), exact("10.0.0.1"));
        assert_eq!(host_pattern("[2001:DB8::1]"), exact("2001:db8::1"));
        assert_eq!(host_pattern("::ffff:10.0.0.1"), exact("10.0.0.1"));
        assert_eq!(host_pattern("*.Example.com"), suffix(".example.com"));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            ".",
            "*",
            "*.",
            "*.com",
            "*.10.0.0.1",
            "a.*.com",
            "*a.example.com",
            "*.*.example.com",
            "https://a.b",
            "a.b:443",
            "a.b/c",
            "a b",
            "a..b",
            ".a.b",
            "127.1",
            "0x7f.1",
            "2130706433",
            "a@b",
            "a%2eb",
            "a\u{0}b",
        ] {
            assert!(host_pattern(text).is_err(), "{text}");
        }
    }

    #[test]
    fn variables_are_expanded_once() {
        let env = |name: &str| match name {
            "HOST" => Some("api.example.com".to_owned()),
            "NESTED" => Some("${HOST}".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("plain", None),
            ("a $HOST", None),
            ("https://${HOST}/x", Some("https://api.example.com/x")),
            ("${HOST}${HOST}", Some("api.example.comapi.example.com")),
            ("$${HOST}", Some("${HOST}")),
            ("${NESTED}", Some("${HOST}")),
        ] {
            assert_eq!(expand(text, &env), Ok(expected.map(str::to_owned)), "{text}");
        }
        assert_eq!(expand("${MISSING}", &env), Err("environment variable MISSING is not set".to_owned()));
        for text in ["${", "${HOST", "${}", "${HOST:-x}", "${1A}"] {
            assert!(expand(text, &env).is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_written_inline_is_refused_without_being_repeated() {
        for text in
            [r#""hunter2""#, r#"{"hunter2": 1}"#, r#"{"file": "hunter2", "env": "X"}"#, r#"{"env": "hunter-2"}"#]
        {
            let error = serde_json::from_str::<SecretPlace>(text).unwrap_err().to_string();
            assert!(error.starts_with(NOT_A_PLACE) && !error.contains("hunter"), "{error}");
        }
        let place: SecretPlace = serde_json::from_str(r#"{"env": "X"}"#).unwrap();
        assert_eq!(place, SecretPlace::Env("X".to_owned()));
    }
}

//! Says what serde says in the words of someone who writes a configuration file.

/// A message for people from one of serde's.
pub(super) fn reword(message: &str) -> String {
    if let Some(rest) = message.strip_prefix("unknown field ") {
        return unknown_key(rest);
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        return format!("unknown value {rest}");
    }
    if let Some(key) = message.strip_prefix("missing field ") {
        return format!("the key {key} is missing");
    }
    match message {
        "invalid socket address syntax" => {
            return "expected an address and a port such as `127.0.0.1:15001`".to_owned();
        }
        "invalid IP address syntax" => return "expected an IP address such as `10.0.0.7`".to_owned(),
        _ => {}
    }
    let message =
        message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: ")).unwrap_or(message);
    match message.rsplit_once(", expected ") {
        None => message.to_owned(),
        Some((found, expected)) => format!("expected {}, found {}", plain(expected), plain(found)),
    }
}

/// The key itself stands in the place that the message is shown with.
fn unknown_key(rest: &str) -> String {
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let key = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.collect();
    let near =
        known.iter().map(|name| (distance(key, name), name)).filter(|(far, name)| *far <= 2 && *far < name.len());
    match near.min() {
        Some((_, name)) => format!("unknown key; did you mean `{name}`?"),
        None if known.is_empty() => "unknown key".to_owned(),
        None => format!("unknown key; known here: {}", known.join(", ")),
    }
}

fn plain(text: &str) -> &str {
    match text {
        "map" => "a mapping of keys",
        "sequence" | "a sequence" => "a list",
        "null" | "unit value" => "nothing",
        "a map" => "a mapping of keys",
        "map with a single key" => "a mapping of one key",
        "a boolean" | "boolean" => "true or false",
        "u16" => "a number from 0 to 65535",
        "u32" => "a number from 0 to 4294967295",
        "u64" => "a number that is not negative",
        other if other.starts_with("struct ") => "a mapping of keys",
        other => other,
    }
}

/// How many letters must be added, removed or replaced to come from one word to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_for_people() {
        for (serde, ours) in [
            ("unknown field `prot`, expected one of `port`, `ports`, `hosts`", "unknown key; did you mean `port`?"),
            ("unknown field `xyz`, expected `kind` or `id`", "unknown key; known here: kind, id"),
            ("unknown field `x`, there are no fields", "unknown key"),
            ("unknown variant `x`, expected `a` or `b`", "unknown value `x`, expected `a` or `b`"),
            ("missing field `kind`", "the key `kind` is missing"),
            ("invalid type: string \"x\", expected u16", "expected a number from 0 to 65535, found string \"x\""),
            ("invalid type: sequence, expected struct Settings", "expected a mapping of keys, found a list"),
            ("invalid type: null, expected a sequence", "expected a list, found nothing"),
            ("expected a duration such as `1h`", "expected a duration such as `1h`"),
        ] {
            assert_eq!(reword(serde), ours);
        }
    }

    #[test]
    fn distance_counts_letters() {
        for (from, to, far) in
            [("", "", 0), ("a", "", 1), ("nmuber", "number", 2), ("host", "hosts", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(from, to), far);
        }
    }
}

//! Every builtin function that may be met, how many arguments it takes, and under which conditions it may be used.
//!
//! A test compares this table with what regorus registers, so that a new release can't add a builtin unseen.

/// What of a builtin may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// All of it.
    Free,
    /// Nothing, and why.
    Refused(&'static str),
    /// The argument at this place is a regular expression: written out, and one that compiles.
    Pattern(usize),
    /// The argument at this place must not come from the input.
    NotFromInput(usize),
    /// The format is written out, with no field wider than 64.
    Format,
    /// What is searched and put in its place are written out; one that grows the text doesn't feed another.
    Replace,
    /// What is counted is written out and not empty.
    Counted,
    /// How far to shift is written out and at most 64.
    Shift,
}

/// The builtin of this name: how many arguments it takes, and its use.
pub(super) fn find(name: &str) -> Option<(usize, Use)> {
    TABLE.binary_search_by(|(known, _, _)| (*known).cmp(name)).ok().map(|at| (TABLE[at].1, TABLE[at].2))
}

const EXHAUSTS: &str = "it can use up memory or time that no budget bounds";
const PANICS: &str = "some arguments make it panic";
const RANDOM: &str = "a decision has to be the same every time";
const OUTSIDE: &str = "policy does not look outside of its input and data";
const TRACES: &str = "it writes to the log of the sidecar; hint: put what you want to know into `message`";
const INTERNAL: &str = "it is internal to the engine";

/// Sorted by name.
const TABLE: &[(&str, usize, Use)] = &[
    ("__builtin_sets.intersection", 2, Use::Refused(INTERNAL)),
    ("__builtin_sets.union", 2, Use::Refused(INTERNAL)),
    ("abs", 1, Use::Free),
    ("array.concat", 2, Use::Free),
    ("array.reverse", 1, Use::Free),
    ("array.slice", 3, Use::Free),
    ("base64.decode", 1, Use::Free),
    ("base64.encode", 1, Use::Free),
    ("base64.is_valid", 1, Use::Free),
    ("base64url.decode", 1, Use::Free),
    ("base64url.encode", 1, Use::Free),
    ("base64url.encode_no_pad", 1, Use::Free),
    ("bits.and", 2, Use::Free),
    ("bits.lsh", 2, Use::Shift),
    ("bits.negate", 1, Use::Free),
    ("bits.or", 2, Use::Free),
    ("bits.rsh", 2, Use::Free),
    ("bits.xor", 2, Use::Free),
    ("ceil", 1, Use::Free),
    ("concat", 2, Use::Free),
    ("contains", 2, Use::Free),
    ("count", 1, Use::Free),
    ("endswith", 2, Use::Free),
    ("floor", 1, Use::Free),
    ("format_int", 2, Use::Free),
    ("glob.match", 3, Use::NotFromInput(0)),
    ("glob.quote_meta", 1, Use::Free),
    ("graph.reachable", 2, Use::Free),
    ("graph.reachable_paths", 2, Use::Refused(EXHAUSTS)),
    ("hex.decode", 1, Use::Free),
    ("hex.encode", 1, Use::Free),
    ("http.send", 1, Use::Refused(OUTSIDE)),
    ("indexof", 2, Use::Free),
    ("indexof_n", 2, Use::Free),
    ("intersection", 1, Use::Free),
    ("is_array", 1, Use::Free),
    ("is_boolean", 1, Use::Free),
    ("is_null", 1, Use::Free),
    ("is_number", 1, Use::Free),
    ("is_object", 1, Use::Free),
    ("is_set", 1, Use::Free),
    ("is_string", 1, Use::Free),
    ("json.filter", 2, Use::Free),
    ("json.is_valid", 1, Use::Free),
    ("json.marshal", 1, Use::Free),
    ("json.marshal_with_options", 2, Use::Free),
    ("json.match_schema", 2, Use::NotFromInput(1)),
    ("json.remove", 2, Use::Free),
    ("json.unmarshal", 1, Use::Free),
    ("json.verify_schema", 1, Use::NotFromInput(0)),
    ("lower", 1, Use::Free),
    ("max", 1, Use::Free),
    ("min", 1, Use::Free),
    ("net.cidr_contains", 2, Use::Free),
    ("net.cidr_expand", 1, Use::Refused(EXHAUSTS)),
    ("net.cidr_is_valid", 1, Use::Free),
    ("numbers.range", 2, Use::Refused(EXHAUSTS)),
    ("numbers.range_step", 3, Use::Refused(EXHAUSTS)),
    ("object.filter", 2, Use::Free),
    ("object.get", 3, Use::Free),
    ("object.keys", 1, Use::Free),
    ("object.remove", 2, Use::Free),
    ("object.subset", 2, Use::Refused(PANICS)),
    ("object.union", 2, Use::Free),
    ("object.union_n", 1, Use::Free),
    ("opa.runtime", 0, Use::Refused(OUTSIDE)),
    ("product", 1, Use::Free),
    ("rand.intn", 2, Use::Refused(RANDOM)),
    ("regex.find_all_string_submatch_n", 3, Use::Pattern(0)),
    ("regex.find_n", 3, Use::Pattern(0)),
    ("regex.is_valid", 1, Use::Pattern(0)),
    ("regex.match", 2, Use::Pattern(0)),
    ("regex.replace", 3, Use::Pattern(1)),
    ("regex.split", 2, Use::Pattern(0)),
    ("regex.template_match", 4, Use::Refused(PANICS)),
    ("replace", 3, Use::Replace),
    ("round", 1, Use::Free),
    ("semver.compare", 2, Use::Free),
    ("semver.is_valid", 1, Use::Free),
    ("sort", 1, Use::Free),
    ("split", 2, Use::Free),
    ("sprintf", 2, Use::Format),
    ("startswith", 2, Use::Free),
    ("strings.any_prefix_match", 2, Use::Free),
    ("strings.any_suffix_match", 2, Use::Free),
    ("strings.count", 2, Use::Counted),
    ("strings.replace_n", 2, Use::Replace),
    ("strings.reverse", 1, Use::Free),
    ("substring", 3, Use::Free),
    ("sum", 1, Use::Free),
    ("time.add_date", 4, Use::Free),
    ("time.clock", 1, Use::Free),
    ("time.date", 1, Use::Free),
    ("time.diff", 2, Use::Free),
    ("time.format", 1, Use::Free),
    ("time.now_ns", 0, Use::Free),
    ("time.parse_duration_ns", 1, Use::Free),
    ("time.parse_ns", 2, Use::Refused(PANICS)),
    ("time.parse_rfc3339_ns", 1, Use::Free),
    ("time.weekday", 1, Use::Free),
    ("to_number", 1, Use::Free),
    ("trace", 1, Use::Refused(TRACES)),
    ("trim", 2, Use::Free),
    ("trim_left", 2, Use::Free),
    ("trim_prefix", 2, Use::Free),
    ("trim_right", 2, Use::Free),
    ("trim_space", 1, Use::Free),
    ("trim_suffix", 2, Use::Free),
    ("type_name", 1, Use::Free),
    ("union", 1, Use::Free),
    ("units.parse", 1, Use::Refused(PANICS)),
    ("units.parse_bytes", 1, Use::Refused(PANICS)),
    ("upper", 1, Use::Free),
    ("urlquery.decode", 1, Use::Free),
    ("urlquery.decode_object", 1, Use::Free),
    ("urlquery.encode", 1, Use::Free),
    ("urlquery.encode_object", 1, Use::Free),
    ("uuid.parse", 1, Use::Refused("it is not part of this build")),
    ("uuid.rfc4122", 1, Use::Refused(RANDOM)),
    ("walk", 1, Use::Free),
    ("yaml.is_valid", 1, Use::Refused(EXHAUSTS)),
    ("yaml.marshal", 1, Use::Free),
    ("yaml.unmarshal", 1, Use::Refused(EXHAUSTS)),
];

#[cfg(test)]
mod tests {
    use regorus::unstable::BUILTINS;

    use super::*;

    #[test]
    fn the_table_holds_what_regorus_registers() {
        for (name, (_, arity)) in BUILTINS.iter() {
            let (known, _) = find(name).unwrap_or_else(|| panic!("{name}/{arity} is not in the table"));
            assert_eq!(known, usize::from(*arity), "{name}");
        }
    }

    #[test]
    fn what_may_be_used_is_registered() {
        for (name, _, usage) in TABLE {
            assert!(matches!(usage, Use::Refused(_)) || BUILTINS.contains_key(name), "{name}");
        }
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(TABLE.is_sorted_by(|one, next| one.0 < next.0));
    }
}

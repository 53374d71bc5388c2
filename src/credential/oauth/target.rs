//! What a token is asked to be good for.

use serde_json::Value;

use super::Fields;

/// What a token is good for: beyond this it is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// All scopes that a policy may choose from.
    pub scopes: Vec<String>,
    /// Whom it is for, by the name that the issuer knows them by.
    pub audience: Option<String>,
    /// Whom it is for, by their URLs (RFC 8707).
    pub resources: Vec<String>,
    /// What exactly it permits (RFC 9396): objects with a `type`.
    pub details: Vec<Value>,
}

impl Target {
    /// Writes it into a request. The audience is given, because it is not always that of the token itself.
    pub(super) fn ask(&self, fields: &mut Fields, scopes: &[&str], audience: Option<&str>) {
        fields.scope(scopes);
        if let Some(audience) = audience {
            fields.add("audience", audience);
        }
        for resource in &self.resources {
            fields.add("resource", resource);
        }
        if !self.details.is_empty() {
            fields.add("authorization_details", &Value::from(self.details.as_slice()).to_string());
        }
    }

    /// Whether an audience was asked for, and if so, whether all of these were.
    pub(super) fn covers(&self, audiences: &[&str]) -> bool {
        let asked =
            |one: &&str| self.audience.as_deref() == Some(*one) || self.resources.iter().any(|each| each == one);
        !audiences.is_empty() && audiences.iter().all(asked)
    }

    /// Whether any audience is asked for.
    pub(super) fn names_audience(&self) -> bool {
        self.audience.is_some() || !self.resources.is_empty()
    }

    /// Whether these details permit nothing that was not asked for.
    pub(super) fn permits(&self, given: &[Value]) -> bool {
        given.iter().all(|given| self.details.iter().any(|asked| is_within(given, asked)))
    }
}

/// Whether one detail is another, or less of it. A field that is missing would permit everything that it bounds, and an
/// unknown one may permit anything.
fn is_within(given: &Value, asked: &Value) -> bool {
    let (Value::Object(given), Value::Object(asked)) = (given, asked) else { return false };
    given.len() == asked.len()
        && given.iter().all(|(name, given)| match (given, asked.get(name)) {
            (Value::Array(given), Some(Value::Array(asked))) => {
                (asked.is_empty() || !given.is_empty()) && given.iter().all(|each| asked.contains(each))
            }
            (given, Some(asked)) => given == asked,
            (_, None) => false,
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn details_may_be_fewer_and_never_more() {
        let target = Target {
            details: vec![json!({"type": "pay", "actions": ["read", "write"], "limit": {"eur": 5}})],
            ..Target::default()
        };
        let table = [
            (json!([]), true),
            (json!([{"type": "pay", "actions": ["read", "write"], "limit": {"eur": 5}}]), true),
            (json!([{"type": "pay", "actions": ["read"], "limit": {"eur": 5}}]), true),
            (json!([{"type": "pay", "actions": [], "limit": {"eur": 5}}]), false),
            (json!([{"type": "pay", "limit": {"eur": 5}}]), false),
            (json!([{"type": "pay", "actions": ["read", "admin"], "limit": {"eur": 5}}]), false),
            (json!([{"type": "pay", "actions": ["read"], "limit": {"eur": 6}}]), false),
            (json!([{"type": "pay", "actions": ["read"], "limit": {"eur": 5}, "more": true}]), false),
            (json!([{"type": "other", "actions": ["read"], "limit": {"eur": 5}}]), false),
            (json!(["pay"]), false),
        ];
        for (given, permitted) in table {
            assert_eq!(target.permits(given.as_array().unwrap()), permitted, "{given}");
        }
    }

    #[test]
    fn every_audience_must_have_been_asked_for() {
        let target = Target { audience: Some("a".into()), resources: vec!["https://b".into()], ..Target::default() };
        for (audiences, covered) in
            [(vec!["a"], true), (vec!["https://b", "a"], true), (vec!["a", "c"], false), (vec![], false)]
        {
            assert_eq!(target.covers(&audiences), covered, "{audiences:?}");
        }
    }
}

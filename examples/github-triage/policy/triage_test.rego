package tollgate_test

import data.tollgate

call(segments, matches) := {
	"schema": 1,
	"matches": matches,
	"task": {"purpose": "triage"},
	"call": {"segments": segments},
}

test_a_listed_call_in_the_organisation_is_permitted if {
	tollgate.decision.decision == "allow" with input as call(["repos", "example-org", "app", "issues"], ["read-issues"])
}

test_another_organisation_is_denied if {
	tollgate.decision.decision == "deny" with input as call(["repos", "other-org", "app", "issues"], ["read-issues"])
}

test_a_call_that_is_not_listed_is_denied if {
	tollgate.decision.reason == "not_listed" with input as call(["repos", "example-org", "app", "pulls"], [])
}

test_another_purpose_is_denied if {
	document := object.union(call(["repos", "example-org", "app", "issues"], ["read-issues"]), {"task": {"purpose": "release"}})
	tollgate.decision.decision == "deny" with input as document
}

package tollgate_test

import data.tollgate

call(matches, purpose) := {"schema": 1, "matches": matches, "task": {"purpose": purpose}}

test_a_listed_call_is_permitted if {
	tollgate.decision.decision == "allow" with input as call(["npm"], "release")
}

test_a_call_that_is_not_listed_is_denied if {
	tollgate.decision.reason == "not_listed" with input as call([], "release")
}

test_another_purpose_is_denied if {
	tollgate.decision.decision == "deny" with input as call(["npm"], "triage")
}

package tollgate_test

test_the_shipped_decision_allows_what_is_listed if {
	data.tollgate.decision == {"decision": "allow", "rule": "allow.issues"} with input as {"matches": ["issues"]}
}

test_the_shipped_decision_denies_what_is_not_listed if {
	data.tollgate.decision.decision == "deny" with input as {"matches": []}
}

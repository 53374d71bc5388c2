package tollgate.lib.answer_test

import data.tollgate.lib.answer

test_allow_names_its_rule if {
	answer.allow("allow.issues") == {"decision": "allow", "rule": "allow.issues"}
}

test_deny_says_why if {
	answer.deny("team.hours", "closed", "Come back at nine.", "quota") == {
		"decision": "deny",
		"rule": "team.hours",
		"reason": "closed",
		"message": "Come back at nine.",
		"class": "quota",
	}
}

test_an_answer_without_a_reason_is_not_made if {
	made := {1 | answer.deny("team.hours", input.reason, "Come back at nine.", "quota")} with input as {}
	count(made) == 0
}

test_require_approval_names_the_group if {
	made := answer.require_approval("team.writes", "A person has to agree to this.", "sre")
	made.decision == "require_approval"
	made.class == "missing_approval"
	made.obligations.approval.group == "sre"
}

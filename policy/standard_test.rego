package tollgate.standard_test

import data.tollgate.standard

listed := {
	"task": {"source": "static"},
	"call": {"effect": "read"},
	"destination": {"name": "github", "classification": "internal"},
	"matches": ["issues", "everything"],
}

test_a_listed_call_is_allowed_by_its_first_entry if {
	standard.decision == {"decision": "allow", "rule": "allow.issues"} with input as listed
}

test_a_call_that_no_entry_matches_is_denied if {
	answer := standard.decision with input as object.union(listed, {"matches": []})
	answer.decision == "deny"
	answer.reason == "not_listed"
	answer.class == "security"
	answer.rule == "standard.default"
}

test_a_call_without_matches_is_denied if {
	standard.decision.reason == "not_listed" with input as object.remove(listed, ["matches"])
}

test_an_empty_input_is_denied if {
	standard.decision.reason == "not_listed" with input as {}
}

test_a_task_is_not_asked_for_by_default if {
	standard.decision.decision == "allow" with input as object.union(listed, {"task": {"source": "none"}})
}

test_a_missing_task_is_denied_where_one_is_required if {
	answer := standard.decision with input as object.union(listed, {"task": {"source": "none"}})
		with data.tollgate.require_task as true
	answer.decision == "deny"
	answer.reason == "task_missing"
	answer.class == "missing_task"
}

test_an_input_without_a_task_is_denied_where_one_is_required if {
	standard.decision.reason == "task_missing" with input as object.remove(listed, ["task"])
		with data.tollgate.require_task as true
}

test_a_call_with_a_task_is_allowed_where_one_is_required if {
	standard.decision.decision == "allow" with input as listed with data.tollgate.require_task as true
}

test_a_task_is_not_asked_for_when_it_is_not_required if {
	without := object.union(listed, {"task": {"source": "none"}})
	standard.decision.decision == "allow" with input as without with data.tollgate.require_task as false
}

test_an_effect_up_to_the_most_of_the_task_is_allowed if {
	every most in ["read", "write", "destructive", "admin"] {
		standard.decision.decision == "allow" with input as object.union(listed, {"task": {"max_effect": most}})
	}
}

test_an_effect_above_the_most_of_the_task_is_denied_though_listed if {
	every effect in ["write", "destructive", "admin", "unheard_of"] {
		asked := object.union(listed, {"task": {"max_effect": "read"}, "call": {"effect": effect}})
		standard.decision.reason == "effect_exceeds_task" with input as asked
	}
}

test_a_call_of_no_known_effect_is_denied_in_a_bounded_task if {
	asked := object.union(object.remove(listed, ["call"]), {"task": {"max_effect": "admin"}})
	standard.decision.reason == "effect_exceeds_task" with input as asked
}

test_a_bound_that_is_not_understood_forbids_everything if {
	asked := object.union(listed, {"task": {"max_effect": "look"}})
	standard.decision.reason == "effect_exceeds_task" with input as asked
}

test_a_destination_below_the_ceiling_is_allowed if {
	asked := object.union(listed, {"task": {"ceiling": "confidential"}})
	standard.decision.decision == "allow" with input as asked
}

test_a_destination_above_the_ceiling_is_denied_though_listed if {
	asked := object.union(listed, {"task": {"ceiling": "public"}})
	answer := standard.decision with input as asked
	answer.reason == "classification_exceeds_task"
	answer.class == "security"
}

test_a_destination_of_no_known_classification_is_denied_under_a_ceiling if {
	asked := object.union(object.remove(listed, ["destination"]), {"task": {"ceiling": "restricted"}})
	standard.decision.reason == "classification_exceeds_task" with input as asked
}

test_a_missing_task_is_told_before_anything_else if {
	asked := object.union(listed, {"task": {"source": "none", "max_effect": "read"}, "call": {"effect": "write"}})
	standard.decision.reason == "task_missing" with input as asked with data.tollgate.require_task as true
}

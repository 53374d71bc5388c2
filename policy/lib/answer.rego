# Builds answers that have exactly the fields that Tollgate accepts.
package tollgate.lib.answer

# A yes, with the name of the rule that gives it.
allow(rule) := {"decision": "allow", "rule": rule}

# A no. `message` is one sentence for the agent, `class` whose concern it is: `security`, `misconfiguration`,
# `missing_approval`, `missing_task` or `quota`.
deny(rule, reason, message, class) := {
	"decision": "deny",
	"rule": rule,
	"reason": reason,
	"message": message,
	"class": class,
}

# A yes that waits for a person of this group.
require_approval(rule, message, group) := {
	"decision": "require_approval",
	"rule": rule,
	"reason": "approval_required",
	"message": message,
	"class": "missing_approval",
	"obligations": {"approval": {"group": group}},
}

# Decides by the allow-list, and narrows it: a triage task writes nothing but comments, in this organisation alone.
package tollgate

default decision := {"decision": "deny", "reason": "not_listed", "message": "this call is not on the list of permitted calls", "rule": "triage.list", "class": "security"}

decision := {"decision": "allow", "rule": "triage.list"} if {
	count(input.matches) > 0
	input.task.purpose == "triage"
	input.call.segments[1] == "example-org"
}

# Decides by the allow-list, for tasks that release. What is misplaced never comes to policy: it is refused before.
package tollgate

default decision := {"decision": "deny", "reason": "not_listed", "message": "this call is not on the list of permitted calls", "rule": "release.list", "class": "security"}

decision := {"decision": "allow", "rule": "release.list"} if {
	count(input.matches) > 0
	input.task.purpose == "release"
}

package tollgate_test

import data.tollgate

call(agent, tool) := {
	"schema": 1,
	"agent": {"id": sprintf("spiffe://cluster.local/ns/agents/sa/%s", [agent])},
	"task": {"id": "t", "source": "static", "purpose": "plan"},
	"destination": {"name": "tools", "classification": "internal"},
	"call": {"effect": "write", "method": "POST", "mcp": {"method": "tools/call", "tool": tool}},
	"matches": ["tools"],
}

test_the_planner_calls_every_tool if {
	tollgate.decision.decision == "allow" with input as call("planner", "create_ticket")
}

test_another_agent_only_reads if {
	tollgate.decision.decision == "allow" with input as call("researcher", "search")
	tollgate.decision.reason == "tool_not_for_this_agent" with input as call("researcher", "create_ticket")
}

test_what_is_not_listed_is_denied if {
	denied := object.union(call("planner", "search"), {"matches": []})
	tollgate.decision.decision == "deny" with input as denied
}

# As shipped, but that tools which change something are for the planner alone.
package tollgate

import data.tollgate.lib.answer

decision := answer.deny(
	"agents.tools",
	"tool_not_for_this_agent",
	"Only the planner may call tools that change something.",
	"security",
) if {
	input.destination.name == "tools"
	input.call.mcp.method == "tools/call"
	not input.call.mcp.tool in reading_tools
	not endswith(input.agent.id, "/sa/planner")
} else := data.tollgate.standard.decision

reading_tools := {"search", "fetch"}

# What applies when nothing else is written: deny, but for what the allow-list in `data.tollgate.allow` permits.
#
# The allow-list is matched in Rust and arrives as `input.matches`, so a decision costs the same with ten entries and with
# ten thousand. The first branch that applies decides, and every branch before the last but one is a no.
package tollgate.standard

import data.tollgate.lib.answer
import data.tollgate.lib.classification
import data.tollgate.lib.effect

decision := answer.deny(
	"standard.task",
	"task_missing",
	"This call belongs to no task, and calls without a task are not permitted here.",
	"missing_task",
) if {
	task_is_missing
} else := answer.deny(
	"standard.effect",
	"effect_exceeds_task",
	"This call does more than its task may do.",
	"security",
) if {
	effect_exceeds_task
} else := answer.deny(
	"standard.classification",
	"classification_exceeds_task",
	"This destination holds data that is more sensitive than this task may touch.",
	"security",
) if {
	classification_exceeds_task
} else := answer.allow(concat(".", ["allow", input.matches[0]])) if {
	count(input.matches) > 0
} else := answer.deny(
	"standard.default",
	"not_listed",
	"No entry of the allow-list permits this call.",
	"security",
)

task_is_missing if {
	data.tollgate.require_task == true
	not has_task
}

has_task if input.task.source != "none"

# A bound that the task does not have does not bind; a bound that is not understood forbids everything.
effect_exceeds_task if {
	most := input.task.max_effect
	not effect.within(called_effect, most)
}

classification_exceeds_task if {
	ceiling := input.task.ceiling
	not classification.within(destination_level, ceiling)
}

# `not f(input.x)` is undefined, not true, where `input.x` is: so that what is missing is refused, it gets a value first.
default called_effect := "unknown"

called_effect := input.call.effect

default destination_level := "unknown"

destination_level := input.destination.classification

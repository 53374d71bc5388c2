package tollgate.lib.effect_test

import data.tollgate.lib.effect

test_an_effect_is_within_itself if {
	every name, _ in effect.order {
		effect.within(name, name)
	}
}

test_a_lesser_effect_is_within_a_greater_one if {
	effect.within("read", "write")
	effect.within("write", "destructive")
	effect.within("destructive", "admin")
}

test_a_greater_effect_is_not_within_a_lesser_one if {
	not effect.within("write", "read")
	not effect.within("destructive", "write")
	not effect.within("admin", "destructive")
}

test_an_unknown_effect_is_within_nothing if {
	every name, _ in effect.order {
		not effect.within("delete", name)
	}
	not effect.within("delete", "delete")
	not effect.within(null, "admin")
}

test_nothing_is_within_an_unknown_bound if {
	every name, _ in effect.order {
		not effect.within(name, "everything")
	}
	not effect.within("read", null)
}

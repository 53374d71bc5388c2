package tollgate.lib.classification_test

import data.tollgate.lib.classification

test_a_level_is_within_itself if {
	every name, _ in classification.order {
		classification.within(name, name)
	}
}

test_a_lower_level_is_within_a_higher_one if {
	classification.within("public", "internal")
	classification.within("internal", "confidential")
	classification.within("confidential", "restricted")
}

test_a_higher_level_is_not_within_a_lower_one if {
	not classification.within("internal", "public")
	not classification.within("confidential", "internal")
	not classification.within("restricted", "confidential")
}

test_an_unknown_level_is_within_nothing if {
	every name, _ in classification.order {
		not classification.within("secret", name)
	}
	not classification.within("secret", "secret")
}

test_nothing_is_within_an_unknown_ceiling if {
	every name, _ in classification.order {
		not classification.within(name, "secret")
	}
	not classification.within("public", null)
}

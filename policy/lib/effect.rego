# What calls do at their destination, from least to most.
package tollgate.lib.effect

order := {"read": 0, "write": 1, "destructive": 2, "admin": 3}

# Whether an effect is at most another. An effect that is not known is more than any, and nothing is at most an unknown.
within(effect, most) if object.get(order, effect, 4) <= object.get(order, most, -1)

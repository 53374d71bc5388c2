# How sensitive data is, from least to most.
package tollgate.lib.classification

order := {"public": 0, "internal": 1, "confidential": 2, "restricted": 3}

# Whether a level is at most a ceiling. A level that is not known is above every ceiling, and nothing is below an unknown.
within(level, ceiling) if object.get(order, level, 4) <= object.get(order, ceiling, -1)

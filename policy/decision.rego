# The rule that Tollgate asks. A policy of yours that declares `package tollgate` takes the place of this file.
package tollgate

decision := data.tollgate.standard.decision

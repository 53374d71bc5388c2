//! Finds variables that nothing gives a value: OPA calls them unsafe. regorus takes some of them for undefined, which
//! makes `not misspelt` true.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{AssignOp, Expr};

use super::{
    calls::beginning,
    names::{View, static_path},
    problem,
    walk::{Scope, pattern},
};

/// The variables of one rule.
pub(super) struct Vars<'a> {
    view: &'a View<'a>,
    used: BTreeMap<&'a str, String>,
    bound: BTreeSet<&'a str>,
}

impl<'a> Vars<'a> {
    pub(super) fn new(view: &'a View<'a>) -> Self {
        Self { view, used: BTreeMap::new(), bound: BTreeSet::new() }
    }

    /// Notes which variables an expression uses, and to which it gives a value.
    pub(super) fn see(&mut self, expr: &'a Expr, scope: &Scope<'_>) {
        let mut bound = Vec::new();
        match expr {
            Expr::AssignExpr { op: AssignOp::Eq, lhs, rhs, .. } => {
                pattern(lhs, &mut bound);
                pattern(rhs, &mut bound);
            }
            Expr::Call { fcn, params, .. } => {
                let takes = self.view.arity(fcn);
                if let Some((result, _)) = params.split_last().filter(|(_, others)| takes == Some(others.len())) {
                    pattern(result, &mut bound);
                }
            }
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                self.use_root(expr, scope);
                indices(expr, &mut bound);
            }
            _ => {}
        }
        self.bound.extend(bound);
    }

    fn use_root(&mut self, expr: &'a Expr, scope: &Scope<'_>) {
        let mut root = expr;
        while let Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } = root {
            root = refr;
        }
        let Expr::Var { span, .. } = root else { return };
        let is_known = scope.holds(span.text()) || span.text() == "_" || static_path(expr).is_none();
        if !is_known && self.view.resolve(expr, scope).is_none() {
            let why = format!("{} is not defined", span.text());
            self.used.entry(span.text()).or_insert_with(|| problem(beginning(expr), &why));
        }
    }

    /// The problems of the whole rule.
    pub(super) fn unsafe_ones(self) -> impl Iterator<Item = String> {
        self.used.into_iter().filter(move |(name, _)| !self.bound.contains(name)).map(|(_, problem)| problem)
    }
}

/// A variable in brackets takes each value that stands there in turn.
fn indices<'a>(mut expr: &'a Expr, bound: &mut Vec<&'a str>) {
    loop {
        expr = match expr {
            Expr::RefDot { refr, .. } => refr,
            Expr::RefBrack { refr, index, .. } => {
                pattern(index, bound);
                refr
            }
            _ => return,
        };
    }
}

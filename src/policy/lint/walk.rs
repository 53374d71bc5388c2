//! Goes through a module once and shows each expression together with the names that are local where it stands.

use regorus::unstable::{AssignOp, Expr, Literal, LiteralStmt, Query, Ref, Rule, RuleBody, RuleHead, WithModifier};

/// What is met on the way.
pub(super) enum Node<'a> {
    /// An expression. Of a chain like `input.a[x].b` only the whole is shown, then what stands in brackets.
    Expr(&'a Expr),
    /// `with … as …`. What it puts in place is shown after it.
    With(&'a WithModifier),
}

/// The names that are local at some place: arguments, and what `some`, `every` and `:=` declare.
#[derive(Debug, Default)]
pub(super) struct Scope<'a> {
    names: Vec<&'a str>,
}

impl Scope<'_> {
    /// Whether this name is local here.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.names.contains(&name)
    }
}

/// Shows everything in a rule to `see`.
pub(super) fn rule<'a>(rule: &'a Rule, see: &mut dyn FnMut(Node<'a>, &Scope<'a>)) {
    let mut walk = Walk { scope: Scope::default(), see };
    match rule {
        Rule::Default { value, .. } => walk.expr(value),
        Rule::Spec { head, bodies, .. } => walk.spec(head, bodies),
    }
}

struct Walk<'a, 'f> {
    scope: Scope<'a>,
    see: &'f mut dyn FnMut(Node<'a>, &Scope<'a>),
}

impl<'a> Walk<'a, '_> {
    fn spec(&mut self, head: &'a RuleHead, bodies: &'a [RuleBody]) {
        let (refr, parts): (_, Vec<&'a Expr>) = match head {
            RuleHead::Compr { refr, assign, .. } => (refr, assign.iter().map(|assign| &*assign.value).collect()),
            RuleHead::Set { refr, key, .. } => (refr, key.iter().map(|key| &**key).collect()),
            RuleHead::Func { refr, args, assign, .. } => {
                for arg in args {
                    pattern(arg, &mut self.scope.names);
                }
                (refr, assign.iter().map(|assign| &*assign.value).collect())
            }
        };
        // The head's value belongs to the first body and sees what that declares.
        let mut of_head = parts;
        let mut inner = &**refr;
        while let Expr::RefBrack { refr, index, .. } = inner {
            of_head.push(index);
            inner = refr;
        }
        for body in bodies {
            let outer = self.open(&body.query);
            of_head.drain(..).for_each(|part| self.expr(part));
            if let Some(assign) = &body.assign {
                self.expr(&assign.value);
            }
            self.statements(&body.query.stmts);
            self.close(outer);
        }
        of_head.into_iter().for_each(|part| self.expr(part));
    }

    /// Makes what a query declares local, also before the statement that declares it.
    fn open(&mut self, query: &'a Query) -> usize {
        let outer = self.scope.names.len();
        for statement in &query.stmts {
            match &statement.literal {
                Literal::SomeVars { vars, .. } => self.scope.names.extend(vars.iter().map(|var| var.text())),
                Literal::SomeIn { key, value, .. } => {
                    key.iter().for_each(|key| pattern(key, &mut self.scope.names));
                    pattern(value, &mut self.scope.names);
                }
                Literal::Expr { expr, .. } => {
                    if let Expr::AssignExpr { op: AssignOp::ColEq, lhs, .. } = &**expr {
                        pattern(lhs, &mut self.scope.names);
                    }
                }
                Literal::NotExpr { .. } | Literal::Every { .. } => {}
            }
        }
        outer
    }

    fn close(&mut self, outer: usize) {
        self.scope.names.truncate(outer);
    }

    fn statements(&mut self, statements: &'a [LiteralStmt]) {
        for statement in statements {
            match &statement.literal {
                Literal::SomeVars { .. } => {}
                Literal::SomeIn { key, value, collection, .. } => {
                    key.iter().for_each(|key| self.expr(key));
                    self.expr(value);
                    self.expr(collection);
                }
                Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.expr(expr),
                Literal::Every { key, value, domain, query, .. } => {
                    self.expr(domain);
                    let outer = self.open(query);
                    self.scope.names.extend(key.iter().map(|key| key.text()));
                    self.scope.names.push(value.text());
                    self.statements(&query.stmts);
                    self.close(outer);
                }
            }
            for with in &statement.with_mods {
                (self.see)(Node::With(with), &self.scope);
                self.expr(&with.r#as);
            }
        }
    }

    fn comprehension(&mut self, parts: &[&'a Ref<Expr>], query: &'a Query) {
        let outer = self.open(query);
        parts.iter().for_each(|part| self.expr(part));
        self.statements(&query.stmts);
        self.close(outer);
    }

    fn expr(&mut self, expr: &'a Expr) {
        (self.see)(Node::Expr(expr), &self.scope);
        match expr {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. }
            | Expr::Var { .. } => {}
            Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().for_each(|item| self.expr(item)),
            Expr::Object { fields, .. } => fields.iter().for_each(|(_, name, value)| {
                self.expr(name);
                self.expr(value);
            }),
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                self.comprehension(&[term], query);
            }
            Expr::ObjectCompr { key, value, query, .. } => self.comprehension(&[key, value], query),
            Expr::Call { params, .. } => params.iter().for_each(|param| self.expr(param)),
            Expr::UnaryExpr { expr, .. } => self.expr(expr),
            Expr::RefDot { .. } | Expr::RefBrack { .. } => self.chain(expr),
            Expr::BinExpr { lhs, rhs, .. }
            | Expr::BoolExpr { lhs, rhs, .. }
            | Expr::ArithExpr { lhs, rhs, .. }
            | Expr::AssignExpr { lhs, rhs, .. } => {
                self.expr(lhs);
                self.expr(rhs);
            }
            Expr::Membership { key, value, collection, .. } => {
                key.iter().for_each(|key| self.expr(key));
                self.expr(value);
                self.expr(collection);
            }
        }
    }

    /// Goes into what stands in the brackets of a chain, and into its root where that is more than a name.
    fn chain(&mut self, mut expr: &'a Expr) {
        loop {
            expr = match expr {
                Expr::RefDot { refr, .. } => refr,
                Expr::RefBrack { refr, index, .. } => {
                    self.expr(index);
                    refr
                }
                Expr::Var { .. } => return,
                root => return self.expr(root),
            };
        }
    }
}

/// The names that stand free in a pattern, each of which it declares.
pub(super) fn pattern<'a>(expr: &'a Expr, names: &mut Vec<&'a str>) {
    match expr {
        Expr::Var { span, .. } => names.push(span.text()),
        Expr::Array { items, .. } => items.iter().for_each(|item| pattern(item, names)),
        Expr::Object { fields, .. } => fields.iter().for_each(|(_, _, value)| pattern(value, names)),
        _ => {}
    }
}

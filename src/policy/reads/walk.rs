//! Walks the syntax tree of a policy and notes every reference to `input` and every function that is called.
//!
//! Each kind of expression is matched by name, so that a new kind of the parser does not slip through unread.

use std::collections::{BTreeSet, HashMap, HashSet};

use regorus::{
    Value,
    unstable::{BUILTINS, Expr, Import, Literal, LiteralStmt, Module, Query, Ref, Rule, RuleAssign, RuleHead},
};

use super::Step;

/// What a walk over modules found.
#[derive(Default)]
pub struct Found {
    /// References to `input`, each down to its first dynamic step.
    pub references: Vec<Reference>,
    /// Called names that are not known to depend on their arguments alone.
    pub nondeterministic: BTreeSet<String>,
}

/// One reference to `input`.
pub struct Reference {
    /// The static steps below `input`.
    pub steps: Vec<Step>,
    /// File, line and column.
    pub place: String,
}

/// Walks all of the modules.
pub fn walk(modules: &[Ref<Module>]) -> Found {
    let rules = modules.iter().flat_map(|module| &module.policy).filter_map(|rule| rule_name(rule)).collect();
    let mut walk = Walk { rules, aliases: HashMap::new(), found: Found::default() };
    for module in modules {
        walk.module(module);
    }
    walk.found
}

struct Walk {
    /// The first names of all rules: what they are called with is Rego, and walked itself.
    rules: HashSet<String>,
    /// The imports of the module at hand: what their names stand for below `input`, or `None` for `data`.
    aliases: HashMap<String, Option<Vec<Step>>>,
    found: Found,
}

/// A reference taken apart: its root and what follows.
struct Chain<'a> {
    root: &'a Expr,
    parts: Vec<Part<'a>>,
}

enum Part<'a> {
    Static(Step),
    Dynamic(&'a Expr),
}

impl Walk {
    fn module(&mut self, module: &Module) {
        self.aliases = module.imports.iter().filter_map(alias).collect();
        for rule in &module.policy {
            self.rule(rule);
        }
    }

    fn rule(&mut self, rule: &Rule) {
        match rule {
            Rule::Default { refr, args, value, .. } => {
                self.head(refr);
                self.expressions(args);
                self.expression(value);
            }
            Rule::Spec { head, bodies, .. } => {
                match head {
                    RuleHead::Compr { refr, assign, .. } => {
                        self.head(refr);
                        self.assignment(assign.as_ref());
                    }
                    RuleHead::Set { refr, key, .. } => {
                        self.head(refr);
                        self.expressions(key);
                    }
                    RuleHead::Func { refr, args, assign, .. } => {
                        self.head(refr);
                        self.expressions(args);
                        self.assignment(assign.as_ref());
                    }
                }
                for body in bodies {
                    self.assignment(body.assign.as_ref());
                    self.query(&body.query);
                }
            }
        }
    }

    /// A rule's own name is not read; what stands in its brackets is.
    fn head(&mut self, refr: &Expr) {
        for part in chain(refr).parts {
            if let Part::Dynamic(index) = part {
                self.expression(index);
            }
        }
    }

    fn assignment(&mut self, assign: Option<&RuleAssign>) {
        if let Some(assign) = assign {
            self.expression(&assign.value);
        }
    }

    fn query(&mut self, query: &Query) {
        for statement in &query.stmts {
            self.statement(statement);
        }
    }

    fn statement(&mut self, statement: &LiteralStmt) {
        match &statement.literal {
            Literal::SomeVars { .. } => {}
            Literal::SomeIn { key, value, collection, .. } => {
                self.expressions(key);
                self.expression(value);
                self.expression(collection);
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.expression(expr),
            Literal::Every { domain, query, .. } => {
                self.expression(domain);
                self.query(query);
            }
        }
        for modifier in &statement.with_mods {
            // The replaced place is not read by being replaced.
            self.head(&modifier.refr);
            self.expression(&modifier.r#as);
        }
    }

    fn expressions<'a>(&mut self, expressions: impl IntoIterator<Item = &'a Ref<Expr>>) {
        for expression in expressions {
            self.expression(expression);
        }
    }

    fn expression(&mut self, expression: &Expr) {
        match expression {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. } => {}
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.reference(expression),
            Expr::Array { items, .. } | Expr::Set { items, .. } => self.expressions(items),
            Expr::Object { fields, .. } => {
                for (_, key, value) in fields {
                    self.expression(key);
                    self.expression(value);
                }
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                self.expression(term);
                self.query(query);
            }
            Expr::ObjectCompr { key, value, query, .. } => {
                self.expression(key);
                self.expression(value);
                self.query(query);
            }
            Expr::Call { fcn, params, .. } => {
                self.call(fcn);
                self.expressions(params);
            }
            Expr::UnaryExpr { expr, .. } => self.expression(expr),
            Expr::BinExpr { lhs, rhs, .. }
            | Expr::BoolExpr { lhs, rhs, .. }
            | Expr::ArithExpr { lhs, rhs, .. }
            | Expr::AssignExpr { lhs, rhs, .. } => {
                self.expression(lhs);
                self.expression(rhs);
            }
            Expr::Membership { key, value, collection, .. } => {
                self.expressions(key);
                self.expression(value);
                self.expression(collection);
            }
        }
    }

    fn reference(&mut self, expression: &Expr) {
        let Chain { root, parts } = chain(expression);
        let name = match root {
            Expr::Var { span, .. } => span.text(),
            other => {
                self.expression(other);
                ""
            }
        };
        let below_input = match name {
            "input" => Some(Vec::new()),
            _ => self.aliases.get(name).cloned().flatten(),
        };
        match below_input {
            Some(prefix) => self.note_read(expression, prefix, &parts),
            // A function that stands without its call can still be put in another one's place by `with`.
            None => self.note_if_nondeterministic(&dotted(name, &parts)),
        }
        for part in parts {
            if let Part::Dynamic(index) = part {
                self.expression(index);
            }
        }
    }

    fn note_read(&mut self, expression: &Expr, mut steps: Vec<Step>, parts: &[Part<'_>]) {
        steps.extend(parts.iter().map_while(|part| match part {
            Part::Static(step) => Some(step.clone()),
            Part::Dynamic(_) => None,
        }));
        let span = expression.span();
        let place = format!("{}:{}:{}", span.source.get_path(), span.line, span.col);
        self.found.references.push(Reference { steps, place });
    }

    fn call(&mut self, function: &Expr) {
        self.reference(function);
        let Chain { root, parts } = chain(function);
        let Expr::Var { span, .. } = root else { return };
        let (root, name) = (span.text(), dotted(span.text(), &parts));
        let is_rego = root == "data" || self.rules.contains(root) || self.aliases.contains_key(root);
        if !is_rego && name != "print" && !BUILTINS.contains_key(name.as_str()) {
            self.found.nondeterministic.insert(name);
        }
    }

    fn note_if_nondeterministic(&mut self, name: &str) {
        if NONDETERMINISTIC.iter().any(|known| known.strip_suffix('*').map_or(name == *known, |p| name.starts_with(p)))
        {
            self.found.nondeterministic.insert(name.to_owned());
        }
    }
}

fn rule_name(rule: &Rule) -> Option<String> {
    let refr = match rule {
        Rule::Default { refr, .. } => refr,
        Rule::Spec { head, .. } => match head {
            RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. } => refr,
        },
    };
    match chain(refr).root {
        Expr::Var { span, .. } => Some(span.text().to_owned()),
        _ => None,
    }
}

/// The name that an import gives, and what it stands for.
fn alias(import: &Import) -> Option<(String, Option<Vec<Step>>)> {
    let Chain { root, parts } = chain(&import.refr);
    let Expr::Var { span, .. } = root else { return None };
    let steps: Vec<Step> = parts
        .into_iter()
        .filter_map(|part| match part {
            Part::Static(step) => Some(step),
            Part::Dynamic(_) => None,
        })
        .collect();
    let name = match (&import.r#as, steps.last()) {
        (Some(span), _) => span.text(),
        (None, Some(Step::Key(last))) => last.as_str(),
        (None, _) => span.text(),
    };
    match span.text() {
        "input" => Some((name.to_owned(), Some(steps))),
        "data" => Some((name.to_owned(), None)),
        // `rego.v1` and `future.keywords` name nothing.
        _ => None,
    }
}

/// Takes a reference apart. Iterative, because references may be long.
fn chain(expression: &Expr) -> Chain<'_> {
    let mut parts = Vec::new();
    let mut root = expression;
    loop {
        match root {
            Expr::RefDot { refr, field: (span, value), .. } => {
                parts.push(Part::Static(Step::Key(key(value).unwrap_or_else(|| span.text().to_owned()))));
                root = refr;
            }
            Expr::RefBrack { refr, index, .. } => {
                parts.push(static_index(index).map_or(Part::Dynamic(index), Part::Static));
                root = refr;
            }
            _ => break,
        }
    }
    parts.reverse();
    Chain { root, parts }
}

fn static_index(index: &Expr) -> Option<Step> {
    match index {
        Expr::String { value, .. } | Expr::RawString { value, .. } => key(value).map(Step::Key),
        Expr::Number { value: Value::Number(number), .. } => {
            number.as_u64().and_then(|index| usize::try_from(index).ok()).map(Step::Index)
        }
        _ => None,
    }
}

fn key(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.as_ref().to_owned()),
        _ => None,
    }
}

/// The name that a static reference spells; a dynamic step ends it.
fn dotted(root: &str, parts: &[Part<'_>]) -> String {
    let mut name = root.to_owned();
    for part in parts {
        let Part::Static(Step::Key(key)) = part else { break };
        name.push('.');
        name.push_str(key);
    }
    name
}

/// Functions that depend on more than their arguments; a trailing `*` stands for any ending.
const NONDETERMINISTIC: &[&str] =
    &["time.now_ns", "rand.*", "uuid.rfc4122", "uuid.v4", "opa.*", "http.*", "net.lookup*", "providers.*"];

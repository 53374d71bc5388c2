//! What the names in a policy stand for: rules, functions, imports, input and data.

use std::collections::{BTreeMap, HashMap};

use regorus::unstable::{Expr, Module, Ref, Rule, RuleHead};

use super::{at, builtins, problem, walk::Scope};

/// A path from its root on: `["data", "team", "rule"]`.
pub(super) type Path = Vec<String>;

/// The rules and functions of all modules.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Rules and functions by path, with the place of the first definition.
    pub rules: BTreeMap<Path, String>,
    functions: HashMap<Path, usize>,
}

/// A module's view: its own package and what it imports.
#[derive(Debug)]
pub(super) struct View<'a> {
    names: &'a Names,
    package: Path,
    imports: HashMap<String, Path>,
}

/// What a called name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Callee {
    /// A function of some module, and how many arguments it takes.
    Function(Path, usize),
    /// A builtin, or a name that nothing has.
    Builtin(String),
}

impl Names {
    /// Gathers what all modules define. Reports functions that are defined with different numbers of arguments.
    pub(super) fn gather(modules: &[Ref<Module>], problems: &mut Vec<String>) -> Self {
        let mut names = Self::default();
        for module in modules {
            let package = package(module);
            for rule in &module.policy {
                let (refr, arity) = head(rule);
                let path = below(&package, refr);
                names.rules.entry(path.clone()).or_insert_with(|| at(rule.span()));
                let Some(arity) = arity else { continue };
                if *names.functions.entry(path).or_insert(arity) != arity {
                    problems.push(problem(rule.span(), "another definition of this function takes other arguments"));
                }
            }
        }
        names
    }

    /// The rules that a reference to this path reads: the one it leads into, and those that lie below it.
    pub(super) fn read_by<'s>(&'s self, path: &'s [String]) -> impl Iterator<Item = &'s Path> {
        let above = (1..path.len()).filter_map(|end| self.rules.get_key_value(&path[..end]).map(|(rule, _)| rule));
        let from = self.rules.range(path.to_vec()..).map(|(rule, _)| rule);
        above.chain(from.take_while(move |rule| rule.starts_with(path)))
    }

    /// Whether some rule has this path, or lies above or below it.
    pub(super) fn touches(&self, path: &[String]) -> bool {
        self.read_by(path).next().is_some()
    }
}

impl<'a> View<'a> {
    pub(super) fn new(names: &'a Names, module: &Module) -> Self {
        let mut imports = HashMap::new();
        for import in &module.imports {
            let Some((path, _)) = static_path(&import.refr) else { continue };
            let alias = import.r#as.as_ref().map(|alias| alias.text().to_owned()).or_else(|| path.last().cloned());
            if let Some(alias) = alias
                && matches!(path[0].as_str(), "data" | "input")
            {
                imports.insert(alias, path);
            }
        }
        Self { names, package: package(module), imports }
    }

    /// The path of a rule of this module.
    pub(super) fn path_of(&self, rule: &Rule) -> Path {
        below(&self.package, head(rule).0)
    }

    /// The path below `data` or `input` that a reference leads to, as far as it is written out. `None` for what is
    /// local.
    pub(super) fn resolve(&self, expr: &Expr, scope: &Scope<'_>) -> Option<Path> {
        let (path, _) = static_path(expr)?;
        if scope.holds(&path[0]) {
            return None;
        }
        if matches!(path[0].as_str(), "data" | "input") {
            return Some(path);
        }
        if let Some(import) = self.imports.get(&path[0]) {
            return Some([import.as_slice(), &path[1..]].concat());
        }
        let own = [self.package.as_slice(), &path].concat();
        self.names.touches(&own[..=self.package.len()]).then_some(own)
    }

    /// What a call calls, in the order in which the engine looks: an import, a function, a builtin.
    pub(super) fn callee(&self, function: &Expr) -> Option<Callee> {
        let (path, true) = static_path(function)? else { return None };
        let imported = self.imports.get(&path[0]).map(|import| [import.as_slice(), &path[1..]].concat());
        let own = [self.package.as_slice(), &path].concat();
        let absolute = (path[0] == "data").then(|| path.clone());
        for candidate in [imported, absolute, Some(own)].into_iter().flatten() {
            if let Some(arity) = self.names.functions.get(&candidate) {
                return Some(Callee::Function(candidate, *arity));
            }
        }
        Some(Callee::Builtin(path.join(".")))
    }

    /// How many arguments the called function takes.
    pub(super) fn arity(&self, function: &Expr) -> Option<usize> {
        match self.callee(function)? {
            Callee::Function(_, arity) => Some(arity),
            Callee::Builtin(name) => builtins::find(&name).map(|(arity, _)| arity),
        }
    }
}

/// The path of a rule of this module.
pub(super) fn path_in(module: &Module, rule: &Rule) -> Path {
    below(&package(module), head(rule).0)
}

fn package(module: &Module) -> Path {
    let (path, _) = static_path(&module.package.refr).unwrap_or_default();
    std::iter::once("data".to_owned()).chain(path).collect()
}

fn head(rule: &Rule) -> (&Expr, Option<usize>) {
    match rule {
        Rule::Spec { head: RuleHead::Func { refr, args, .. }, .. } => (refr, Some(args.len())),
        Rule::Spec { head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. }, .. } => (refr, None),
        Rule::Default { refr, args, .. } => (refr, (!args.is_empty()).then_some(args.len())),
    }
}

fn below(package: &[String], refr: &Expr) -> Path {
    let (path, _) = static_path(refr).unwrap_or_default();
    [package, &path].concat()
}

/// The parts of a chain of names up to the first that is computed, and whether that is all of it.
pub(super) fn static_path(expr: &Expr) -> Option<(Path, bool)> {
    let mut parts = Vec::new();
    let mut rest = expr;
    loop {
        match rest {
            Expr::Var { span, .. } => {
                parts.push(Some(span.text().to_owned()));
                break;
            }
            Expr::RefDot { refr, field, .. } => {
                parts.push(Some(field.0.text().to_owned()));
                rest = refr;
            }
            Expr::RefBrack { refr, index, .. } => {
                parts.push(text(index).map(str::to_owned));
                rest = refr;
            }
            _ => return None,
        }
    }
    parts.reverse();
    let all = parts.len();
    let path: Path = parts.into_iter().map_while(|part| part).collect();
    let whole = path.len() == all;
    Some((path, whole))
}

/// The text of a literal.
pub(super) fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::String { value, .. } | Expr::RawString { value, .. } => value.as_string().ok().map(|text| &**text),
        _ => None,
    }
}

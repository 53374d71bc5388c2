//! Checks what a rule calls: that it exists, takes that many arguments, and may be used in that way.

use regorus::{
    Value,
    unstable::{BUILTINS, Expr, Ref, Span, WithModifier},
};

use super::{
    builtins::{self, Use},
    names::{Callee, Path, View, static_path, text},
    problem,
    walk::Scope,
};

/// Checks the calls of one rule.
pub(super) struct Calls<'a> {
    view: &'a View<'a>,
    /// Where text was made longer already.
    grown: bool,
}

impl<'a> Calls<'a> {
    pub(super) fn new(view: &'a View<'a>) -> Self {
        Self { view, grown: false }
    }

    /// Checks a call. Answers with the path of the function that is called, where it is one of the policy's own.
    pub(super) fn call(&mut self, expr: &Expr, scope: &Scope<'_>) -> Result<Option<Path>, String> {
        let Expr::Call { fcn, params, .. } = expr else { return Ok(None) };
        let span = beginning(fcn);
        let Some(callee) = self.view.callee(fcn) else {
            return Err(problem(span, "what is called here is not the name of a function"));
        };
        match callee {
            Callee::Function(path, arity) => {
                check_count(span, &path.join("."), arity, params.len())?;
                Ok(Some(path))
            }
            Callee::Builtin(name) => {
                self.builtin(span, &name, params, scope)?;
                Ok(None)
            }
        }
    }

    /// A function may not be swapped for another one: that would walk around all that is checked here.
    pub(super) fn with(&self, with: &WithModifier) -> Result<(), String> {
        let target = static_path(&with.refr).map(|(path, _)| path).unwrap_or_default();
        let is_document = matches!(target.first().map(String::as_str), Some("input" | "data"));
        if is_document && !matches!(self.view.callee(&with.refr), Some(Callee::Function(..))) {
            return Ok(());
        }
        Err(problem(
            &with.span,
            "`with` may stand in for input and data only, not for functions; hint: tests may do so",
        ))
    }

    fn builtin(&mut self, span: &Span, name: &str, params: &[Ref<Expr>], scope: &Scope<'_>) -> Result<(), String> {
        if name == "print" {
            return Err(problem(span, "print is refused: it writes to the log of the sidecar; hint: tests may use it"));
        }
        let Some((arity, usage)) = builtins::find(name) else {
            return Err(problem(span, &format!("{name} is not a function{}", hint_for(name))));
        };
        if let Use::Refused(why) = usage {
            return Err(problem(span, &format!("{name} is refused: {why}")));
        }
        check_count(span, name, arity, params.len())?;
        let checked = match usage {
            Use::Free | Use::Refused(_) => Ok(()),
            Use::Pattern(place) => check_pattern(&params[place]).and_then(|()| match name {
                "regex.replace" => self.grow(text(&params[2])),
                _ => Ok(()),
            }),
            Use::NotFromInput(place) => self.check_origin(&params[place], scope),
            Use::Format => check_format(&params[0]),
            Use::Replace => self.check_replace(params),
            Use::Counted => match text(&params[1]) {
                Some(counted) if !counted.is_empty() => Ok(()),
                _ => Err("what is counted has to be written out, and not empty".to_owned()),
            },
            Use::Shift => match &*params[1] {
                Expr::Number { value, .. } if value.as_u64().is_ok_and(|by| by <= MAX_WIDTH) => Ok(()),
                _ => Err(format!("how far to shift has to be written out, {MAX_WIDTH} at most")),
            },
        };
        checked.map_err(|why| problem(span, &format!("{name}: {why}")))
    }

    /// What the agent sends must not become a pattern or a schema.
    fn check_origin(&self, expr: &Expr, scope: &Scope<'_>) -> Result<(), String> {
        match self.view.resolve(expr, scope) {
            Some(path) if path[0] == "input" => Err("this argument must not come from the input".to_owned()),
            _ => Ok(()),
        }
    }

    fn check_replace(&mut self, params: &[Ref<Expr>]) -> Result<(), String> {
        let pairs: Vec<_> = match params {
            [_, old, new] => vec![(text(old), text(new))],
            [pairs, _] => match &**pairs {
                Expr::Object { fields, .. } => fields.iter().map(|(_, old, new)| (text(old), text(new))).collect(),
                _ => vec![(None, None)],
            },
            _ => vec![(None, None)],
        };
        for (old, new) in pairs {
            match (old, new) {
                (Some(old), Some(new)) if !old.is_empty() && new.len() <= old.len() => {}
                (Some(_), new @ Some(_)) => self.grow(new)?,
                _ => return Err("what is replaced, and by what, has to be written out".to_owned()),
            }
        }
        Ok(())
    }

    /// Texts that grow from texts that have grown use up memory. One step of a bounded length is harmless.
    fn grow(&mut self, new: Option<&str>) -> Result<(), String> {
        match new {
            None => return Err("what it is replaced by has to be written out".to_owned()),
            Some("") => return Ok(()),
            Some(new) if new.len() > MAX_GROWTH => {
                return Err(format!("what it is replaced by may have {MAX_GROWTH} bytes at most"));
            }
            Some(_) => {}
        }
        if std::mem::replace(&mut self.grown, true) {
            return Err("a rule may make text longer by replacing only once".to_owned());
        }
        Ok(())
    }
}

/// Where a chain of names begins: the engine's own spans begin at its last part.
pub(super) fn beginning(mut expr: &Expr) -> &Span {
    while let Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } = expr {
        expr = refr;
    }
    expr.span()
}

/// One more argument takes the result, as in OPA.
fn check_count(span: &Span, name: &str, arity: usize, given: usize) -> Result<(), String> {
    if given == arity || given == arity + 1 {
        return Ok(());
    }
    let plural = if arity == 1 { "" } else { "s" };
    Err(problem(span, &format!("{name} takes {arity} argument{plural}, not {given}")))
}

fn check_pattern(pattern: &Ref<Expr>) -> Result<(), String> {
    let Some(text) = text(pattern) else { return Err("the pattern has to be written out".to_owned()) };
    let (is_valid, _) = BUILTINS.get("regex.is_valid").ok_or("not part of this build")?;
    match is_valid(pattern.span(), std::slice::from_ref(pattern), &[Value::from(text)], true) {
        Ok(Value::Bool(true)) => Ok(()),
        Ok(_) => Err("the pattern is not a regular expression".to_owned()),
        Err(_) => Err("the pattern is too large".to_owned()),
    }
}

fn check_format(format: &Expr) -> Result<(), String> {
    let Some(format) = text(format) else { return Err("the format has to be written out".to_owned()) };
    for field in format.split('%').skip(1) {
        let digits: String = field.trim_start_matches('.').chars().take_while(char::is_ascii_digit).collect();
        if !digits.is_empty() && digits.parse::<u64>().map_or(true, |width| width > MAX_WIDTH) {
            return Err(format!("a field may be {MAX_WIDTH} wide at most"));
        }
    }
    Ok(())
}

fn hint_for(name: &str) -> &'static str {
    if name.starts_with("io.jwt.") || name.starts_with("crypto.") {
        "; hint: tokens and digests are verified before policy is asked, and stand in the input as facts"
    } else if name.contains('.') {
        "; hint: an import may be missing, or the builtin is not part of this build"
    } else {
        ""
    }
}

const MAX_WIDTH: u64 = 64;
const MAX_GROWTH: usize = 64;

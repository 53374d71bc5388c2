//! Log lines on standard error: for people on a terminal, JSON otherwise.
//!
//! Few things are logged: what a call did stands in its record. The libraries that carry calls are silent, because their
//! lines could show what passes through them.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sets the program's subscriber. `level` is a level's name, or directives as `RUST_LOG` has them.
///
/// # Errors
///
/// When `level` can't be understood, or a subscriber is set already.
pub fn init(level: &str) -> anyhow::Result<()> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(std::io::stderr);
    let outcome = if std::io::stderr().is_terminal() {
        builder.with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).with_ansi(false).try_init()
    };
    outcome.map_err(|error| anyhow::anyhow!("the log can't be set up: {error}"))
}

fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(format!("{level},{SILENT}"))
        .map_err(|error| anyhow::anyhow!("the log level {level:?} is not understood: {error}"))
}

// A directive covers every target that begins with it.
const SILENT: &str = "hyper=off,h2=off,rustls=off,hickory=off";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_understood() {
        for level in ["error", "warn", "info", "debug", "trace", "off", "info,tollgate::policy=debug"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        assert!(filter("tollgate=loudly").is_err());
    }

    #[test]
    fn libraries_stay_silent_at_any_level() {
        let text = filter("trace").expect("a valid level").to_string();
        assert!(text.contains("hyper=off") && text.contains("h2=off"), "{text}");
    }
}

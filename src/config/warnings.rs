//! What of a configuration can be used and is dangerous all the same: it may be meant so.

use super::{Config, Problem};

impl Config {
    /// What whoever wrote it should know.
    pub fn warnings(&self) -> Vec<Problem> {
        // Containers that share no network have no other way to each other, so this can't be refused.
        let proxy = self.listen.proxy.filter(|proxy| !proxy.ip().to_canonical().is_loopback());
        let message = |proxy| format!("{proxy} is no loopback address, and whoever reaches it is the agent");
        let file = self.file.as_ref().map_or_else(String::new, |file| file.path.display().to_string());
        let problem = |message| Problem { file, line: None, path: "listen.proxy".to_owned(), message };
        proxy.map(message).map(problem).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_proxy_that_others_reach_is_warned_of() {
        for (proxy, warned) in [
            ("127.0.0.1:15001", false),
            ("127.1.2.3:1", false),
            ("'[::1]:15001'", false),
            ("'[::ffff:127.0.0.1]:15001'", false),
            ("null", false),
            ("0.0.0.0:15001", true),
            ("'[::]:15001'", true),
            ("10.0.0.7:15001", true),
        ] {
            let text =
                format!("agent: {{identity: {{kind: static, id: 'spiffe://a/b'}}}}\nlisten: {{proxy: {proxy}}}\n");
            let config = Config::parse(&text, Path::new("/etc"), "tollgate.yaml", &|_| None).expect("it can be used");
            let warnings = config.warnings();
            assert_eq!(!warnings.is_empty(), warned, "{proxy}: {warnings:?}");
            assert!(warnings.iter().all(|warning| warning.path == "listen.proxy"));
        }
    }
}

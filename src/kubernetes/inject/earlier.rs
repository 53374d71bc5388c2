//! The variables of an earlier injection, found and taken out of a pod's containers.
//!
//! The injector of that time may have had other settings, so that what it set would now be in the way: a proxy that no
//! longer listens, or none where one is needed. A variable is taken for ours only if nothing speaks for the pod: it stands
//! in the block that injection puts behind all others, has a value of ours, and was not noted as the pod's own.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{
    agent::{BUNDLE_FILE, JAVA_STORE_FILE},
    pod::{self, CONTAINERS, Container, INIT_CONTAINERS, Pod},
};
use crate::{
    exec::environment,
    kubernetes::{ANNOTATION_KEPT_VARIABLES, TRUST_DIR},
};

/// Takes them out of every container. `seen` is the same pod, read.
pub fn take_variables(pod: &mut Value, seen: &Pod) {
    let kept = seen.metadata.annotations.get(ANNOTATION_KEPT_VARIABLES).map(String::as_str).unwrap_or_default();
    let spec = &mut pod["spec"];
    for (list, containers) in [(INIT_CONTAINERS, &seen.spec.init_containers), (CONTAINERS, &seen.spec.containers)] {
        for (index, container) in containers.iter().enumerate() {
            take(&mut spec[list][index], container, &kept_by(kept, &container.name));
        }
    }
}

/// The variables of this container that were noted as the pod's own.
fn kept_by<'a>(kept: &'a str, container: &str) -> Vec<&'a str> {
    let of_container = kept.split("; ").filter_map(|entry| entry.split_once(": ")).find(|(name, _)| *name == container);
    of_container.map(|(_, names)| names.split(", ").collect()).unwrap_or_default()
}

fn take(container: &mut Value, seen: &Container, kept: &[&str]) {
    let block = block(seen, kept);
    if block == 0 && !seen.env.is_empty() {
        pod::remove(container, "env");
    } else if block < seen.env.len() {
        pod::list(container, "env").truncate(block);
    }
    for (index, variable) in seen.env[..block].iter().enumerate() {
        let own = variable.value.as_deref().filter(|_| variable.name == environment::JAVA_OPTIONS).map(without_ours);
        if let (Some(own), Some(value)) = (own, variable.value.as_deref())
            && own != value
        {
            container["env"][index]["value"] = json!(own);
        }
    }
}

/// Where the block of our variables begins. They stand in their order, each under a name that the pod does not use.
fn block(seen: &Container, kept: &[&str]) -> usize {
    let mut begin = seen.env.len();
    let mut next = usize::MAX;
    while let Some((variable, before)) = seen.env[..begin].split_last() {
        let is_alone = !before.iter().any(|earlier| earlier.name == variable.name);
        let value = variable.value.as_deref().filter(|_| variable.value_from.is_none());
        match value.and_then(|value| rank(&variable.name, value)) {
            Some(rank) if rank < next && is_alone && !kept.contains(&variable.name.as_str()) => next = rank,
            Some(_) | None => break,
        }
        begin -= 1;
    }
    begin
}

/// Which of our variables this is, in the order in which they are set, if its value is one of ours.
fn rank(name: &str, value: &str) -> Option<usize> {
    let names = environment::BUNDLE.into_iter().chain(environment::PROXY).chain([environment::NODE_USES_PROXY]);
    let mut names = names.chain(environment::DIRECT).chain([environment::JAVA_OPTIONS]);
    let rank = names.position(|ours| ours == name)?;
    let is_ours = if environment::BUNDLE.contains(&name) {
        value == format!("{TRUST_DIR}/{BUNDLE_FILE}")
    } else if environment::PROXY.contains(&name) {
        let port = value.strip_prefix(&format!("http://{}:", Ipv4Addr::LOCALHOST));
        port.is_some_and(|port| port.parse::<u16>().is_ok())
    } else if name == environment::NODE_USES_PROXY {
        value == "1"
    } else if name == environment::JAVA_OPTIONS {
        without_ours(value).is_empty()
    } else {
        // Which hosts were reached directly is not known any more.
        environment::DIRECT.contains(&name)
    };
    is_ours.then_some(rank)
}

/// Java's options without those that injection puts behind them.
pub fn without_ours(options: &str) -> String {
    let ours = environment::java_trust(&format!("{TRUST_DIR}/{JAVA_STORE_FILE}"));
    let Some((before, after)) = options.split_once(&ours) else { return options.to_owned() };
    let mut after = after;
    for option in JAVA_PROXY {
        let Some(value) = after.strip_prefix(' ').and_then(|after| after.strip_prefix(option)) else { break };
        // A list of hosts with white space in it stands in quotes.
        let end = match value.strip_prefix('"') {
            Some(quoted) => quoted.find('"').map(|end| end + 2),
            None => value.find(' '),
        };
        after = &value[end.unwrap_or(value.len())..];
    }
    match (before.strip_suffix(' ').unwrap_or(before), after) {
        (before, "") => before.to_owned(),
        ("", after) => after.trim_start().to_owned(),
        (before, after) => format!("{before}{after}"),
    }
}

/// What stands behind the trust store where a proxy was set, in this order.
const JAVA_PROXY: [&str; 5] =
    ["-Dhttp.proxyHost=", "-Dhttp.proxyPort=", "-Dhttps.proxyHost=", "-Dhttps.proxyPort=", "-Dhttp.nonProxyHosts="];

#[cfg(test)]
mod tests {
    use super::*;

    const BUNDLE: &str = "/etc/tollgate/trust/ca.pem";

    /// What is left of these variables; `kept` is the annotation.
    fn left(env: &[(&str, &str)], kept: &str) -> Vec<(String, String)> {
        let env: Vec<Value> = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let mut pod = json!({"metadata": {"annotations": {ANNOTATION_KEPT_VARIABLES: kept}},
                             "spec": {"containers": [{"name": "a", "env": env}]}});
        let seen = Pod::read(&pod).unwrap();
        take_variables(&mut pod, &seen);
        let left = pod["spec"]["containers"][0]["env"].as_array().into_iter().flatten();
        let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
        left.map(|entry| (text(entry, "name"), text(entry, "value"))).collect()
    }

    #[test]
    fn only_our_own_variables_are_taken() {
        let proxy = "http://127.0.0.1:15001";
        for (env, kept, names) in [
            (vec![("A", "1"), ("SSL_CERT_FILE", BUNDLE), ("HTTPS_PROXY", proxy), ("NO_PROXY", "x")], "", vec!["A"]),
            (vec![("SSL_CERT_FILE", BUNDLE), ("A", "1"), ("PIP_CERT", BUNDLE)], "", vec!["SSL_CERT_FILE", "A"]),
            (vec![("PIP_CERT", BUNDLE), ("SSL_CERT_FILE", BUNDLE)], "", vec!["PIP_CERT"]),
            (vec![("SSL_CERT_FILE", "/own"), ("PIP_CERT", BUNDLE)], "", vec!["SSL_CERT_FILE"]),
            (vec![("SSL_CERT_FILE", "/own"), ("SSL_CERT_FILE", BUNDLE)], "", vec!["SSL_CERT_FILE"; 2]),
            (vec![("HTTPS_PROXY", "http://corp:3128")], "", vec!["HTTPS_PROXY"]),
            (
                vec![("HTTPS_PROXY", "http://127.0.0.1:3128")],
                "b: X; a: SSL_CERT_FILE, HTTPS_PROXY",
                vec!["HTTPS_PROXY"],
            ),
            (vec![("HTTPS_PROXY", proxy), ("NO_PROXY", "x")], "a: NO_PROXY", vec!["HTTPS_PROXY", "NO_PROXY"]),
            (vec![("HTTPS_PROXY", proxy), ("NO_PROXY", "x")], "b: NO_PROXY", vec![]),
            (vec![("NODE_USE_ENV_PROXY", "0")], "", vec!["NODE_USE_ENV_PROXY"]),
        ] {
            let found: Vec<String> = left(&env, kept).into_iter().map(|(name, _)| name).collect();
            assert_eq!(found, names, "{env:?} {kept}");
        }
    }

    #[test]
    fn javas_own_options_are_left() {
        let trust = environment::java_trust("/etc/tollgate/trust/truststore.jks");
        let address = "127.0.0.1:15001".parse().unwrap();
        for direct in [&[][..], &["localhost", "::1"], &["a b", "c"]] {
            let proxied = format!("{trust} {}", environment::java_proxy(address, direct));
            for ours in [&trust, &proxied] {
                for (options, own) in [
                    (ours.clone(), ""),
                    (format!("-Xmx1g {ours}"), "-Xmx1g"),
                    (format!("-Xmx1g {ours} -Xms1m"), "-Xmx1g -Xms1m"),
                    (format!("{ours} -Xms1m"), "-Xms1m"),
                ] {
                    assert_eq!(without_ours(&options), own, "{options}");
                }
                let env = [("JAVA_TOOL_OPTIONS", format!("-Xmx1g {ours}")), ("PIP_CERT", BUNDLE.to_owned())];
                let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
                assert_eq!(left(&env, ""), [("JAVA_TOOL_OPTIONS".to_owned(), "-Xmx1g".to_owned())]);
            }
        }
        for own in ["", "-Xmx1g", "-Djavax.net.ssl.trustStore=/own.jks", "-Dhttp.proxyHost=corp"] {
            assert_eq!(without_ours(own), own);
        }
    }
}

//! What the command's environment must say for its clients to come to the sidecar and to trust it.
//!
//! Clients agree on nothing: some read only the lower-case variable, some only their own. Each variable below is read by
//! a client that was tried. None of them is what confines the command; that is the fence's work.

use std::{
    env,
    ffi::OsString,
    fs, io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::handover::Go;
use crate::tls::truststore::JKS_PASSWORD;

/// A directory that only this user can enter, for the files that the command's clients read. It vanishes on drop.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    /// A new one below the system's directory for temporary files.
    pub fn create() -> io::Result<Self> {
        let dir = env::temp_dir().join(format!("tollgate-{}", uuid::Uuid::now_v7().simple()));
        if dir.to_str().is_none() {
            return Err(io::Error::other("the directory for temporary files has a name that is not UTF-8"));
        }
        // Not recursive, so that a directory that someone else made in advance is an error and not used.
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self { dir })
    }

    /// Writes what the command is to trust: PEM for most, a Java trust store for Java.
    pub fn write_trust(&self, bundle: &str, java_store: &[u8]) -> io::Result<Trust> {
        let trust = Trust { bundle: self.file("ca-bundle.pem"), java_store: self.file("truststore.jks") };
        fs::write(&trust.bundle, bundle)?;
        fs::write(&trust.java_store, java_store)?;
        Ok(trust)
    }

    fn file(&self, name: &str) -> String {
        let path = self.dir.join(name);
        path.to_str().expect("the directory's name was checked to be UTF-8 and the file's is").to_owned()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing secret is in it, and the command may have removed it already.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The files that the command is to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The system's roots, the destinations' roots and ours, as PEM.
    pub bundle: String,
    /// The same as a Java trust store.
    pub java_store: String,
}

/// The changes that lead the command's clients to `proxy` and let them trust it. `direct` are the hosts that clients
/// reach without the proxy; `java_options` is what `JAVA_TOOL_OPTIONS` said before.
pub fn changes(proxy: SocketAddr, trust: &Trust, direct: &[&str], java_options: Option<&str>) -> Go {
    let url = format!("http://{proxy}");
    let mut set: Vec<(String, String)> = Vec::new();
    set.extend(PROXY.iter().map(|name| ((*name).to_owned(), url.clone())));
    set.extend(BUNDLE.iter().map(|name| ((*name).to_owned(), trust.bundle.clone())));
    // Node reads the variables above only when it is asked to.
    set.push((NODE_USES_PROXY.to_owned(), "1".to_owned()));
    set.push((JAVA_OPTIONS.to_owned(), java(proxy, trust, direct, java_options)));
    // An exemption that was set outside would lead around the sidecar.
    let mut remove: Vec<String> = NOT_INHERITED.iter().map(|name| (*name).to_owned()).collect();
    if direct.is_empty() {
        remove.extend(DIRECT.iter().map(|name| (*name).to_owned()));
    } else {
        set.extend(DIRECT.iter().map(|name| ((*name).to_owned(), direct.join(","))));
    }
    Go { set, remove }
}

/// The variables that hold one of these secrets: the sidecar's own, which the command must not inherit.
pub fn holding(variables: impl Iterator<Item = (OsString, OsString)>, secrets: &[&str]) -> Vec<String> {
    let holds =
        |value: &OsString| value.to_str().is_some_and(|value| secrets.iter().any(|secret| value.contains(secret)));
    variables.filter(|(_, value)| holds(value)).filter_map(|(name, _)| name.into_string().ok()).collect()
}

/// Applies the changes to a command that is about to start.
pub fn apply(changes: &Go, command: &mut Command) {
    for name in &changes.remove {
        command.env_remove(name);
    }
    command.envs(changes.set.iter().map(|(name, value)| (name, value)));
}

/// Java knows nothing of any other variable. What was asked for before stays, and ours wins by coming last.
fn java(proxy: SocketAddr, trust: &Trust, direct: &[&str], before: Option<&str>) -> String {
    let options = [before.unwrap_or_default(), &java_trust(&trust.java_store), &java_proxy(proxy, direct)];
    options.join(" ").trim_start().to_owned()
}

/// The options by which Java trusts what is in this store.
pub fn java_trust(store: &str) -> String {
    format!(
        "-Djavax.net.ssl.trustStore={} -Djavax.net.ssl.trustStoreType=JKS \
         -Djavax.net.ssl.trustStorePassword={JKS_PASSWORD}",
        quoted(store)
    )
}

/// The options by which Java comes to `proxy`, but for the hosts in `direct`.
pub fn java_proxy(proxy: SocketAddr, direct: &[&str]) -> String {
    let (host, port) = (proxy.ip(), proxy.port());
    // Without this property Java exempts loopback, which is for `direct` to say.
    let hosts: Vec<&str> = direct.iter().map(|host| if *host == "::1" { "[::1]" } else { host }).collect();
    format!(
        "-Dhttp.proxyHost={host} -Dhttp.proxyPort={port} -Dhttps.proxyHost={host} -Dhttps.proxyPort={port} \
         -Dhttp.nonProxyHosts={}",
        quoted(&hosts.join("|"))
    )
}

/// Java splits the variable at white space that is not in quotes.
fn quoted(value: &str) -> String {
    if value.contains(char::is_whitespace) { format!("\"{value}\"") } else { value.to_owned() }
}

/// With `1`, Node looks for a proxy too.
pub const NODE_USES_PROXY: &str = "NODE_USE_ENV_PROXY";

/// What every Java process takes as further options.
pub const JAVA_OPTIONS: &str = "JAVA_TOOL_OPTIONS";

/// Where clients look for a proxy.
pub const PROXY: [&str; 6] = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// Where clients look for hosts that need no proxy.
pub const DIRECT: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// Variables by which single clients would take another way.
pub const NOT_INHERITED: [&str; 5] =
    ["npm_config_noproxy", "npm_config_proxy", "npm_config_https_proxy", "grpc_proxy", "no_grpc_proxy"];

/// Where clients look for certificates to trust. `SSL_CERT_DIR` is left alone: it adds to the file, and what it adds is
/// not what answers.
pub const BUNDLE: [&str; 14] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "DENO_CERT",
    "CARGO_HTTP_CAINFO",
    "PIP_CERT",
    "npm_config_cafile",
    "HTTPLIB2_CA_CERTS",
    "NIX_SSL_CERT_FILE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
];

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn trust() -> Trust {
        Trust { bundle: "/t/ca.pem".into(), java_store: "/t/s.jks".into() }
    }

    fn value<'a>(go: &'a Go, name: &str) -> Option<&'a str> {
        go.set.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn every_client_is_led_to_the_proxy_and_the_bundle() {
        let go = changes("127.0.0.1:4711".parse().expect("address"), &trust(), &[], None);
        for name in PROXY {
            assert_eq!(value(&go, name), Some("http://127.0.0.1:4711"), "{name}");
        }
        for name in BUNDLE {
            assert_eq!(value(&go, name), Some("/t/ca.pem"), "{name}");
        }
        assert_eq!(value(&go, "NODE_USE_ENV_PROXY"), Some("1"));
        assert_eq!(
            value(&go, "JAVA_TOOL_OPTIONS"),
            Some(
                "-Djavax.net.ssl.trustStore=/t/s.jks -Djavax.net.ssl.trustStoreType=JKS \
                 -Djavax.net.ssl.trustStorePassword=changeit -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=4711 \
                 -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=4711 -Dhttp.nonProxyHosts="
            )
        );
    }

    #[test]
    fn a_variable_that_holds_the_sidecars_secret_is_found_under_any_name() {
        let variables = [("OAUTH_SECRET", "s3cret"), ("URL", "https://x:s3cret@y"), ("HOME", "/root")];
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        assert_eq!(holding(variables, &["s3cret"]), ["OAUTH_SECRET", "URL"]);
    }

    #[test]
    fn exemptions_from_outside_do_not_reach_the_command() {
        let proxy = "127.0.0.1:4711".parse().expect("address");
        let none = changes(proxy, &trust(), &[], None);
        assert!(DIRECT.iter().all(|name| none.remove.iter().any(|removed| removed == name)));
        let some = changes(proxy, &trust(), &["localhost", "::1"], None);
        for name in DIRECT {
            assert_eq!(value(&some, name), Some("localhost,::1"));
        }
        assert!(value(&some, "JAVA_TOOL_OPTIONS").expect("set").ends_with("-Dhttp.nonProxyHosts=localhost|[::1]"));
        for name in NOT_INHERITED {
            assert!(some.remove.iter().any(|removed| removed == name), "{name}");
        }
    }

    #[test]
    fn java_options_from_outside_stay_and_a_space_is_quoted() {
        let trust = Trust { java_store: "/my tmp/s.jks".into(), ..trust() };
        let go = changes("127.0.0.1:1".parse().expect("address"), &trust, &[], Some("-Xmx1g"));
        let java = value(&go, "JAVA_TOOL_OPTIONS").expect("set");
        assert!(java.starts_with("-Xmx1g -Djavax.net.ssl.trustStore=\"/my tmp/s.jks\" "), "{java}");
    }

    #[test]
    fn the_scratch_directory_is_private_and_vanishes() {
        let scratch = Scratch::create().expect("a directory");
        let dir = scratch.path().to_owned();
        assert_eq!(fs::metadata(&dir).expect("there").permissions().mode() & 0o777, 0o700);
        let trust = scratch.write_trust("pem", b"jks").expect("written");
        assert_eq!(fs::read_to_string(trust.bundle).expect("there"), "pem");
        assert_eq!(fs::read(trust.java_store).expect("there"), b"jks");
        drop(scratch);
        assert!(!dir.exists());
    }
}

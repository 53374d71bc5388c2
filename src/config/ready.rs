//! From what was written to what can be used: every value is checked once, here, and every problem is reported at once.
//!
//! Reads the environment only through the function that it is given. Relative paths are relative to the file.

mod credentials;
mod destinations;
mod identity;
pub mod tasks;
mod telemetry;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Agent, Audit, Config, Durability, File, Fixed, Level, Limits, Listen, Mode, Policy, Problems, Profile, Rotation,
    Tls,
    document::{Document, Place},
    file,
    settings::{self, Settings, StateKind},
    values::{Period, Size},
};
use crate::{
    credential::SecretValue,
    identity::Id,
    kubernetes::{Capture, assurance::Claim},
};

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        read_file(path, env).map(|(_, config)| config)
    }

    /// Reads and checks a text. Relative paths in it are relative to `base_dir`; problems name `file_name`.
    pub fn parse(
        text: &str,
        base_dir: &Path,
        file_name: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Problems> {
        read(text, base_dir, file_name, env).map(|(_, config)| config)
    }
}

/// Reads and checks a file; with the configuration come the settings that it was made from, defaults filled in.
pub fn read_file(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<(Settings, Config), Problems> {
    let name = path.display().to_string();
    let text = file::read(path).map_err(|error| Problems::one(&name, None, format!("can't be read: {error}")))?;
    let parent = path.parent().unwrap_or(Path::new(""));
    let (settings, config) = read(&text, parent, &name, env)?;
    let file = File { path: path.to_owned(), text: text.into(), fixed: Fixed::of(&config) };
    Ok((settings, Config { file: Some(file), ..config }))
}

/// Reads and checks a text; with the configuration come the settings that it was made from, defaults filled in.
pub fn read(
    text: &str,
    base_dir: &Path,
    file_name: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(Settings, Config), Problems> {
    let document = Document::read(text, file_name, env)?;
    let mut check = Check::new(document, base_dir, env);
    let credentials = credentials::settle(&mut check.document);
    let Some(mut settings) = check.document.settle::<Settings>(&Place::root()) else {
        return Err(check.document.into_problems());
    };
    settings.credentials = credentials;
    let config = check.config(&settings);
    let problems = check.document.into_problems();
    if !problems.is_empty() {
        return Err(problems);
    }
    settings.agent.name = Some(config.agent.name.clone());
    settings.audit.durable = Some(config.audit.durable);
    Ok((settings, config))
}

/// What checking needs at hand. A check that fails reports and goes on with a stand-in that is never used, because a
/// configuration with a problem is not handed out.
struct Check<'a> {
    document: Document,
    /// The credentials that some destination has.
    used: BTreeSet<String>,
    /// The secrets that were found in the environment.
    secrets: Vec<SecretValue>,
    base: &'a Path,
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Check<'a> {
    fn new(document: Document, base: &'a Path, env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { document, used: BTreeSet::new(), secrets: Vec::new(), base, env }
    }

    fn config(&mut self, settings: &Settings) -> Config {
        self.refuse_unavailable(settings);
        if settings.mode == Mode::Shadow && settings.profile >= Profile::Strict {
            let message = "shadow forwards what policy denies, which the profiles strict and locked rule out";
            self.document.report(&at(&["mode"]), message);
        }
        self.used = settings.destinations.values().filter_map(|destination| destination.credential.clone()).collect();
        let credentials = credentials::declarations(self, &settings.credentials);
        let (id, identity) = identity::identity(self, settings.agent.identity.as_ref());
        Config {
            file: None,
            mode: settings.mode,
            profile: settings.profile,
            agent: self.agent(&settings.agent, id),
            identity,
            listen: self.listen(&settings.listen),
            tls: self.tls(&settings.tls),
            upstreams: destinations::upstreams(self, &settings.destinations, &credentials),
            credentials,
            environment_secrets: std::mem::take(&mut self.secrets),
            policy: self.policy(&settings.policy),
            revocation_journal: self.journal(settings),
            tasks: tasks::tasks(self, &settings.tasks),
            audit: self.audit(&settings.audit, settings.profile),
            telemetry: telemetry::telemetry(self, &settings.telemetry),
            limits: self.limits(&settings.limits),
            pod: self.pod(),
        }
    }

    /// Where the authority is kept over a restart, so is what the restart has to revoke.
    fn journal(&mut self, settings: &Settings) -> Option<PathBuf> {
        match &settings.state.journal {
            Some(path) => Some(self.path(&at(&["state", "journal"]), path)),
            None => {
                let kept = settings.tls.authority.dir.as_ref()?;
                Some(self.path(&at(&["tls", "authority", "dir"]), kept).join("revocations.jsonl"))
            }
        }
    }

    /// What the injector says, in variables that only it sets.
    fn pod(&mut self) -> Option<Claim> {
        let capture = self.variable("TOLLGATE_CAPTURE")?;
        let parsed = Capture::parse(&capture);
        if parsed.is_none() {
            self.document.report_variable("TOLLGATE_CAPTURE", "expected `init`, `cni` or `proxy`");
        }
        let weaknesses = self.variable("TOLLGATE_POD_WEAKNESSES").map(|text| serde_json::from_str(&text));
        if weaknesses.as_ref().is_some_and(Result::is_err) {
            self.document.report_variable("TOLLGATE_POD_WEAKNESSES", "expected a JSON list of sentences");
        }
        let report = self.variable("TOLLGATE_FENCE_REPORT").map(PathBuf::from);
        let network_policy = self.variable("TOLLGATE_NETWORK_POLICY").map(|text| text.parse());
        if network_policy.as_ref().is_some_and(Result::is_err) {
            self.document.report_variable("TOLLGATE_NETWORK_POLICY", "expected `true` or `false`");
        }
        Some(Claim {
            capture: parsed?,
            network_policy: network_policy.and_then(Result::ok).unwrap_or(false),
            report,
            weaknesses: weaknesses.and_then(Result::ok),
        })
    }

    fn refuse_unavailable(&mut self, settings: &Settings) {
        if !settings.policy.bundles.is_empty() {
            self.unavailable(&at(&["policy", "bundles"]), "fetching bundles");
        }
        if settings.policy.answer.is_some() {
            self.unavailable(&at(&["policy", "answer"]), "another shape of answer");
        }
        if settings.approvals.is_some() {
            self.unavailable(&at(&["approvals"]), "approval by people");
        }
        if settings.audit.decision_logs.is_some() {
            self.unavailable(&at(&["audit", "decision_logs"]), "sending decision logs");
        }
        match settings.state.kind {
            StateKind::Redis => self.unavailable(&at(&["state", "kind"]), "redis"),
            StateKind::Memory if settings.state.url.is_some() => {
                self.document.report(&at(&["state", "url"]), "memory has no url");
            }
            StateKind::Memory => {}
        }
    }

    fn agent(&mut self, agent: &settings::Agent, id: Id) -> Agent {
        let name = match &agent.name {
            Some(name) => self.required(&at(&["agent", "name"]), Some(name)),
            None => identity::name(self, &id),
        };
        Agent {
            id,
            name,
            namespace: self.variable("TOLLGATE_POD_NAMESPACE"),
            pod: self.variable("TOLLGATE_POD_NAME"),
            labels: self.pod_labels(),
            assurance: Level::default(),
        }
    }

    /// The pod's labels as the injector found them. What someone relabels later changes nothing here.
    fn pod_labels(&mut self) -> BTreeMap<String, String> {
        let Some(text) = self.variable("TOLLGATE_POD_LABELS") else { return BTreeMap::new() };
        serde_json::from_str(&text).unwrap_or_else(|_| {
            self.document.report_variable("TOLLGATE_POD_LABELS", "expected a JSON object of texts");
            BTreeMap::new()
        })
    }

    fn listen(&mut self, listen: &settings::Listen) -> Listen {
        let written = [
            ("proxy", listen.proxy),
            ("transparent", listen.transparent),
            ("dns", listen.dns),
            ("health", listen.health),
        ];
        let addresses: Vec<(&str, SocketAddr)> = written.into_iter().filter_map(|(key, at)| Some((key, at?))).collect();
        for (index, (key, address)) in addresses.iter().enumerate() {
            if let Some((other, _)) = addresses[..index].iter().find(|(_, earlier)| overlap(*earlier, *address)) {
                self.document.report(&at(&["listen", key]), format!("overlaps with the address of listen.{other}"));
            }
        }
        let admin = listen.admin.as_ref().map(|path| self.path(&at(&["listen", "admin"]), path));
        Listen {
            proxy: listen.proxy,
            transparent: listen.transparent,
            dns: listen.dns,
            health: listen.health,
            admin: admin.or_else(|| self.injected("TOLLGATE_ADMIN").map(PathBuf::from)),
            admin_user: self.admin_user(),
        }
    }

    /// Of the pod's containers the one that its author named, and the platform permits, as who opens tasks.
    fn admin_user(&mut self) -> Option<u32> {
        let user = self.injected("TOLLGATE_ADMIN_USER")?;
        let parsed = user.parse().ok();
        if parsed.is_none() {
            self.document.report_variable("TOLLGATE_ADMIN_USER", "expected the number of a user");
        }
        parsed
    }

    fn tls(&mut self, tls: &settings::Tls) -> Tls {
        let place = at(&["tls", "origin_roots"]);
        if !tls.origin_roots.system && tls.origin_roots.files.is_empty() {
            self.document
                .report(&place, "with system: false and no files, no destination's certificate can be verified");
        }
        let authority = at(&["tls", "authority"]);
        Tls {
            authority_dir: tls.authority.dir.as_ref().map(|path| self.path(&authority.key("dir"), path)),
            trust_bundle: tls
                .authority
                .trust_bundle
                .as_ref()
                .map(|path| self.path(&authority.key("trust_bundle"), path)),
            java_trust_store: tls
                .authority
                .java_trust_store
                .as_ref()
                .map(|path| self.path(&authority.key("java_trust_store"), path)),
            system_roots: tls.origin_roots.system,
            root_files: self.paths(&place.key("files"), &tls.origin_roots.files),
        }
    }

    fn policy(&mut self, policy: &settings::Policy) -> Policy {
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !policy.decision.split('/').all(plain) {
            let message = "expected the path of a rule below `data`, such as `tollgate/decision`";
            self.document.report(&at(&["policy", "decision"]), message);
        }
        Policy {
            paths: self.paths(&at(&["policy", "paths"]), &policy.paths),
            data: None,
            program: None,
            decision: policy.decision.clone(),
            budget: self.positive(&at(&["policy", "budget"]), policy.budget),
            cache_entries: policy.cache.entries,
            cache_ttl: self.positive(&at(&["policy", "cache", "ttl"]), policy.cache.ttl),
        }
    }

    fn audit(&mut self, audit: &settings::Audit, profile: Profile) -> Audit {
        let strict = profile >= Profile::Strict;
        let durable = match audit.durable {
            None if strict => Durability::BeforeForward,
            None => Durability::Buffered,
            Some(durable) => durable,
        };
        if strict && durable == Durability::Buffered {
            let message = "the profiles strict and locked need before_forward";
            self.document.report(&at(&["audit", "durable"]), message);
        }
        if durable == Durability::BeforeForward && audit.file.is_none() {
            self.document
                .report(&at(&["audit", "file"]), "is required where records are durable before a call is forwarded");
        }
        let file = audit.file.as_ref().map(|path| self.path(&at(&["audit", "file"]), path));
        Audit { file, durable, rotate: audit.rotate.map(|rotate| self.rotation(rotate)) }
    }

    fn rotation(&mut self, settings::Rotation { bytes, keep }: settings::Rotation) -> Rotation {
        let place = at(&["audit", "rotate"]);
        if bytes.0 < 1 << 20 {
            self.document.report(&place.key("bytes"), "less than 1MiB");
        }
        if !(1..=100).contains(&keep) {
            self.document.report(&place.key("keep"), "expected 1 to 100");
        }
        Rotation { bytes: bytes.0, keep }
    }

    fn limits(&mut self, limits: &settings::Limits) -> Limits {
        if limits.inspect_bytes.0 > limits.inspect_total.0 {
            self.document.report(&at(&["limits", "inspect_bytes"]), "larger than limits.inspect_total");
        }
        Limits {
            connections: self.within(
                "connections",
                limits.connections.into(),
                1,
                1 << 20,
                "a number from 1 to 1048576",
            ),
            // hyper holds at least this much for one head.
            header_bytes: self.size("header_bytes", limits.header_bytes, 8 << 10, 16 << 20, "from 8KiB to 16MiB"),
            inspect_bytes: self.size("inspect_bytes", limits.inspect_bytes, 1 << 10, 1 << 30, "from 1KiB to 1GiB"),
            inspect_total: self.size("inspect_total", limits.inspect_total, 1 << 10, 1 << 36, "from 1KiB to 64GiB"),
            // Deeper nesting would need more stack than a worker has.
            json_depth: self.within("json_depth", limits.json_depth.into(), 1, 128, "a number from 1 to 128"),
            sniff: self.positive(&at(&["limits", "sniff"]), limits.sniff),
            connect: CONNECT,
            drain: DRAIN,
        }
    }

    fn size(&mut self, key: &str, size: Size, least: u64, most: u64, range: &str) -> usize {
        self.within(key, size.0, least, most, range)
    }

    fn within(&mut self, key: &str, value: u64, least: u64, most: u64, range: &str) -> usize {
        match usize::try_from(value) {
            Ok(fits) if (least..=most).contains(&value) => fits,
            Ok(_) | Err(_) => {
                self.document.report(&at(&["limits", key]), format!("expected {range}"));
                0
            }
        }
    }

    fn unavailable(&mut self, place: &Place, what: &str) {
        self.document.report(place, format!("{what} is not available in this version"));
    }

    /// A text that may not be missing or empty.
    fn required(&mut self, place: &Place, text: Option<&str>) -> String {
        match text.map(str::trim) {
            None => self.document.report(place, "is required"),
            Some("") => self.document.report(place, "is empty"),
            Some(text) => return text.to_owned(),
        }
        String::new()
    }

    fn positive(&mut self, place: &Place, period: Period) -> Duration {
        if period.0.is_zero() {
            self.document.report(place, "expected more than 0");
        }
        period.0
    }

    fn path(&mut self, place: &Place, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() {
            self.document.report(place, "is empty");
        }
        self.base.join(path)
    }

    fn paths(&mut self, place: &Place, paths: &[PathBuf]) -> Vec<PathBuf> {
        paths.iter().enumerate().map(|(index, path)| self.path(&place.index(index), path)).collect()
    }

    /// An environment variable; empty counts as not set.
    fn variable(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    /// One that the injector sets. Outside of a pod it means something else, or nothing.
    fn injected(&self, name: &str) -> Option<String> {
        self.variable("TOLLGATE_CAPTURE").and_then(|_| self.variable(name))
    }
}

fn at(keys: &[&str]) -> Place {
    keys.iter().fold(Place::root(), |place, key| place.key(key))
}

/// Whether two listeners can't both be bound. Port 0 is a new one each time.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() != 0
        && one.port() == other.port()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// How long connecting to an origin may take, name and TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// How long exchanges may go on after the signal to stop.
const DRAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;

//! An identity that a projected service account token proves.
//!
//! The kubelet writes the token and renews it before it ends; it is read time and again, so that a new one is in use within
//! seconds. Its signature can't be checked here, because its keys are the API server's: what makes it true is that only the
//! kubelet writes to the volume. It is held against what the downward API says of the pod, and whoever it is shown to
//! checks the signature.

use std::{
    fmt, fs,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Id, IdentityFailure, Proof, standing::Standing};

/// A projected service account token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projected {
    /// The file.
    pub token: PathBuf,
    /// The first part of the id.
    pub trust_domain: String,
    /// The namespace that it must be of, if that is known.
    pub namespace: Option<String>,
    /// The pod that it must be bound to, if that is known.
    pub pod: Option<String>,
    /// The UID of that pod, if that is known.
    pub pod_uid: Option<String>,
}

/// An identity that such a token proves.
pub struct Kubernetes {
    projected: Projected,
    pub(super) standing: Standing,
    held: ArcSwapOption<Held>,
}

struct Held {
    token: Zeroizing<String>,
    audiences: Vec<String>,
}

impl Kubernetes {
    pub(super) fn new(projected: Projected, id: Id) -> Self {
        let standing = Standing::unproven(id, "the service account token was not read yet");
        Self { projected, standing, held: ArcSwapOption::empty() }
    }

    /// Reads the token time and again.
    pub(super) async fn follow(&self) {
        loop {
            let looked = self.look().await;
            if let Err(failure) = &looked {
                self.standing.miss(failure);
            }
            let pause = if looked.is_ok() { AGAIN } else { UNTIL_THERE };
            let _ = timeout(pause, self.standing.outlive()).await;
        }
    }

    /// The token, if it is for this audience.
    pub(super) async fn token(&self, audience: &str) -> Result<Zeroizing<String>, IdentityFailure> {
        // The kubelet may just have written a new one, and this one may be at its end.
        if let Err(failure) = self.look().await {
            self.standing.miss(&failure);
        }
        self.standing.proof()?;
        let held = self.held.load_full().ok_or(IdentityFailure::Expired)?;
        if held.audiences.iter().any(|held| held == audience) {
            return Ok(held.token.clone());
        }
        let held = held.audiences.iter().map(|audience| format!("`{audience}`")).collect::<Vec<_>>().join(", ");
        Err(IdentityFailure::Audience { asked: audience.into(), held: held.into() })
    }

    async fn look(&self) -> Result<(), IdentityFailure> {
        let path = self.projected.token.clone();
        // A mounted file system may hang.
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        let token = read.unwrap_or_else(|_| Err(IdentityFailure::unavailable("reading the token failed")))?;
        if self.standing.proof().is_ok() && self.held.load().as_ref().is_some_and(|held| held.token == token) {
            return Ok(());
        }
        self.adopt(token, SystemTime::now())
    }

    fn adopt(&self, token: Zeroizing<String>, now: SystemTime) -> Result<(), IdentityFailure> {
        let claims = Claims::of(&token)?;
        let expires_at = UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp));
        if expires_at.is_none_or(|end| end <= now) {
            return Err(IdentityFailure::Expired);
        }
        claims.check(&self.projected)?;
        let id = claims.id(&self.projected.trust_domain)?;
        let serial = claims.jti.clone().or_else(|| claims.iat.map(|issued| format!("iat:{issued}")));
        self.standing.prove(&id, Proof { serial: serial.map(Into::into), expires_at })?;
        self.held.store(Some(Arc::new(Held { token, audiences: claims.aud.into_list() })));
        Ok(())
    }
}

impl Default for Projected {
    fn default() -> Self {
        Self {
            token: PathBuf::from(TOKEN),
            trust_domain: TRUST_DOMAIN.to_owned(),
            namespace: None,
            pod: None,
            pod_uid: None,
        }
    }
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { projected, standing, held: _ } = self;
        f.debug_struct("Kubernetes").field("projected", projected).field("standing", standing).finish_non_exhaustive()
    }
}

/// What such a token says.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Audience,
    exp: u64,
    iat: Option<u64>,
    jti: Option<String>,
    #[serde(rename = "kubernetes.io")]
    bound: Option<Bound>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Bound {
    namespace: Option<String>,
    pod: Option<Object>,
}

#[derive(Deserialize)]
struct Object {
    name: Option<String>,
    uid: Option<String>,
}

impl Claims {
    fn of(token: &str) -> Result<Self, IdentityFailure> {
        let mut parts = token.split('.');
        let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(IdentityFailure::malformed("the service account token is not a JWT"));
        };
        let decoded = URL_SAFE_NO_PAD.decode(payload).map(Zeroizing::new);
        let decoded = decoded.map_err(|_| IdentityFailure::malformed("the service account token is not a JWT"))?;
        // The parser's own words could show a part of the token.
        serde_json::from_slice(&decoded)
            .map_err(|_| IdentityFailure::malformed("the service account token lacks one of `sub`, `aud` and `exp`"))
    }

    /// The id: only a service account has one, because no person is an agent.
    fn id(&self, trust_domain: &str) -> Result<String, IdentityFailure> {
        let (namespace, account) = self.account().ok_or_else(|| {
            IdentityFailure::malformed("the token's subject is no service account, and only one can be an agent")
        })?;
        Ok(format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}"))
    }

    fn account(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.sub.strip_prefix("system:serviceaccount:")?.split_once(':')?;
        let name = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        (name(namespace) && name(account)).then_some((namespace, account))
    }

    /// Holds the token against what the downward API says.
    fn check(&self, projected: &Projected) -> Result<(), IdentityFailure> {
        let pod = self.bound.as_ref().and_then(|bound| bound.pod.as_ref());
        let namespace = self.bound.as_ref().and_then(|bound| bound.namespace.as_deref());
        let subject = self.account().map(|(namespace, _)| namespace);
        for (what, expected, found) in [
            ("namespace", &projected.namespace, namespace.or(subject)),
            ("namespace", &projected.namespace, subject),
            ("pod", &projected.pod, pod.and_then(|pod| pod.name.as_deref())),
            ("UID", &projected.pod_uid, pod.and_then(|pod| pod.uid.as_deref())),
        ] {
            if let Some(expected) = expected
                && found != Some(expected)
            {
                let why = format!("the service account token is of another {what} than this pod's `{expected}`");
                return Err(IdentityFailure::Rejected(why.into()));
            }
        }
        Ok(())
    }
}

impl Audience {
    fn into_list(self) -> Vec<String> {
        match self {
            Self::One(audience) => vec![audience],
            Self::Several(audiences) => audiences,
        }
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, IdentityFailure> {
    let failed = |error| IdentityFailure::unavailable(format_args!("the token `{}`: {error}", path.display()));
    let file = fs::File::open(path).map_err(failed)?;
    // Room for the largest one at once: growing would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(LARGEST));
    file.take(LARGEST as u64).read_to_string(&mut text).map_err(failed)?;
    match text.trim() {
        "" => Err(IdentityFailure::malformed("the service account token is empty")),
        token => Ok(Zeroizing::new(token.to_owned())),
    }
}

/// Where the injector mounts the token that is the sidecar's alone.
pub const TOKEN: &str = "/var/run/secrets/tollgate.dev/identity/token";

/// The trust domain where nobody names one.
pub const TRUST_DOMAIN: &str = "cluster.local";

/// How soon a token that the kubelet renewed is in use. It is renewed when a fifth of its life is left: two minutes or more.
const AGAIN: Duration = Duration::from_secs(5);

/// How often a token is looked for that is not there.
const UNTIL_THERE: Duration = Duration::from_millis(250);

/// Tokens have one or two kilobytes.
const LARGEST: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claims(more: Value) -> Value {
        let exp = (SystemTime::now() + Duration::from_secs(600)).duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({
            "sub": "system:serviceaccount:agents:triage", "aud": ["tollgate", "vault"], "exp": exp, "jti": "j-1",
            "kubernetes.io": {"namespace": "agents", "pod": {"name": "triage-0", "uid": "u-0"}},
        });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    fn token(more: Value) -> Zeroizing<String> {
        Zeroizing::new(format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims(more).to_string())))
    }

    fn identity(file: &Path) -> Kubernetes {
        let projected = Projected {
            token: file.to_owned(),
            trust_domain: "example.org".into(),
            namespace: Some("agents".into()),
            pod: Some("triage-0".into()),
            pod_uid: Some("u-0".into()),
        };
        Kubernetes::new(projected, Id::default())
    }

    #[test]
    fn the_id_is_made_of_the_service_account() {
        let identity = identity(Path::new("/nowhere"));
        identity.adopt(token(json!({})), SystemTime::now()).unwrap();
        assert_eq!(identity.standing.id().known(), Some("spiffe://example.org/ns/agents/sa/triage"));
        assert_eq!(identity.standing.proof().unwrap().serial.as_deref(), Some("j-1"));
    }

    #[test]
    fn what_is_no_proof_is_refused_with_the_reason() {
        let table = [
            (json!({"sub": "alice@example.org"}), "the service account token is of another namespace"),
            (json!({"sub": "system:serviceaccount:other:triage"}), "another namespace"),
            (json!({"sub": "system:serviceaccount:agents:a/b"}), "another namespace"),
            (json!({"exp": 1}), "has expired"),
            (json!({"exp": "soon"}), "lacks one of"),
            (json!({"aud": 7}), "lacks one of"),
            (json!({"kubernetes.io": {"namespace": "other"}}), "another namespace"),
            (json!({"kubernetes.io": {"namespace": "agents"}}), "another pod than this pod's `triage-0`"),
            (
                json!({"kubernetes.io": {"namespace": "agents", "pod": {"name": "triage-0", "uid": "u-1"}}}),
                "another UID",
            ),
        ];
        for (more, why) in table {
            let identity = identity(Path::new("/nowhere"));
            let refused = identity.adopt(token(more.clone()), SystemTime::now()).unwrap_err().to_string();
            assert!(refused.contains(why), "{more}: {refused}");
            assert!(identity.standing.proof().is_err());
        }
        for text in ["", "a.b", "a.!.c", "a.e30.c", "a.b.c.d"] {
            assert!(Claims::of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_person_is_an_agent() {
        let projected = Projected::default();
        let identity = Kubernetes::new(projected, Id::default());
        let refused = identity.adopt(token(json!({"sub": "alice@example.org"})), SystemTime::now()).unwrap_err();
        assert!(refused.to_string().contains("no service account"), "{refused}");
    }

    #[tokio::test]
    async fn a_renewed_token_is_in_use_and_goes_to_its_audience_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let identity = identity(&file);
        assert!(matches!(identity.token("vault").await, Err(IdentityFailure::Unavailable(_))));
        fs::write(&file, format!("{}\n", *token(json!({})))).unwrap();
        assert_eq!(identity.token("vault").await.unwrap(), token(json!({})));
        fs::write(&file, &*token(json!({"jti": "j-2", "aud": "vault"}))).unwrap();
        assert_eq!(identity.token("vault").await.unwrap(), token(json!({"jti": "j-2", "aud": "vault"})));
        assert_eq!(identity.standing.proof().unwrap().serial.as_deref(), Some("j-2"));
        let refused = identity.token("sts.amazonaws.com").await.unwrap_err().to_string();
        assert!(refused.contains("is for `vault`, not for `sts.amazonaws.com`"), "{refused}");
        fs::remove_file(&file).unwrap();
        assert!(identity.token("vault").await.is_ok(), "what is valid is kept");
    }

    #[tokio::test]
    async fn a_token_of_another_account_takes_the_identity_away() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let identity = identity(&file);
        fs::write(&file, &*token(json!({}))).unwrap();
        identity.look().await.unwrap();
        fs::write(&file, &*token(json!({"sub": "system:serviceaccount:agents:other"}))).unwrap();
        assert!(matches!(identity.token("vault").await, Err(IdentityFailure::Another { .. })));
        assert!(!format!("{identity:?}").contains("c2ln"));
    }
}

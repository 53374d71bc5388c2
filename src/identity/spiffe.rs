//! An identity that the SPIFFE Workload API proves: an X.509-SVID at any time, and a JWT-SVID for whoever asks for one.
//!
//! The API streams a new SVID before the old one ends. When it is away, what is at hand is used until it ends, and the way
//! back is tried time and again; when it says that this workload has no identity any longer, that holds at once. Nothing
//! else in the program knows the library that speaks with it.

use std::{
    error::Error,
    fmt, io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ::spiffe::{
    JwtSvid, SpiffeId, WorkloadApiClient, WorkloadApiError, X509Context, X509Svid, transport::TransportError,
};
use arc_swap::ArcSwapOption;
use futures_util::StreamExt;
use tokio::{select, time::timeout};
use zeroize::Zeroizing;

use super::{Id, IdentityFailure, Proof, standing::Standing};
use crate::tls::certificate::ClientCertificate;

/// Where the Workload API is: `unix:///run/spire/agent.sock` or `tcp://127.0.0.1:8081`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(::spiffe::transport::Endpoint);

/// An identity that it proves.
pub struct Spiffe {
    endpoint: Endpoint,
    pub(super) standing: Standing,
    certificate: ArcSwapOption<ClientCertificate>,
    client: ArcSwapOption<WorkloadApiClient>,
}

impl Endpoint {
    /// An address as the standard writes it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        ::spiffe::transport::Endpoint::parse(text).map(Self).map_err(|error| error.to_string())
    }

    /// Whether a key that it gives out crosses a network: the standard has no encryption for it.
    pub fn crosses_a_network(&self) -> bool {
        match &self.0 {
            ::spiffe::transport::Endpoint::Tcp { host, .. } => !host.to_canonical().is_loopback(),
            _ => false,
        }
    }
}

impl Spiffe {
    pub(super) fn new(endpoint: Endpoint, id: Id) -> Self {
        let standing = Standing::unproven(id, "the Workload API was not asked yet");
        Self { endpoint, standing, certificate: ArcSwapOption::empty(), client: ArcSwapOption::empty() }
    }

    /// Takes SVIDs as they come.
    pub(super) async fn follow(&self) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let (ended, taken) = self.session().await;
            if taken > 0 {
                pause = SHORTEST_PAUSE;
            }
            match ended {
                Ended::Away(failure) => self.standing.miss(&failure),
                Ended::Withdrawn(failure) => self.standing.lose(&failure),
                Ended::Invalid(failure) => {
                    // The standard forbids to ask again: the answer would be the same.
                    tracing::error!(%failure, "the Workload API can't be asked");
                    self.standing.miss(&failure);
                    self.standing.outlive().await;
                }
            }
            // So that the pods of a node do not come back all at once.
            let jittered = pause.mul_f64(0.5 + fastrand::f64());
            let _ = timeout(jittered, self.standing.outlive()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A JWT-SVID for exactly this audience.
    pub(super) async fn token(&self, audience: &str) -> Result<Zeroizing<String>, IdentityFailure> {
        self.standing.proof()?;
        let id = self.standing.id().known().unwrap_or_default();
        let id = SpiffeId::new(id).map_err(|_| IdentityFailure::malformed("the id is not a SPIFFE ID"))?;
        let client = self.client.load_full().ok_or_else(|| IdentityFailure::unavailable(AWAY))?;
        let fetched = timeout(ANSWER, client.fetch_jwt_svid([audience], Some(&id))).await;
        let svid = fetched.map_err(|_| IdentityFailure::Timeout)?.map_err(|error| Ended::of(&error).into_failure())?;
        check(&svid, &id, audience, SystemTime::now())?;
        Ok(Zeroizing::new(svid.token().to_owned()))
    }

    /// The certificate of the X.509-SVID at hand.
    pub(super) fn certificate(&self) -> Result<Arc<ClientCertificate>, IdentityFailure> {
        self.standing.proof()?;
        self.certificate.load_full().ok_or_else(|| IdentityFailure::unavailable(AWAY))
    }

    /// One connection, from its beginning to its end, and how many SVIDs it brought.
    async fn session(&self) -> (Ended, usize) {
        let mut taken = 0;
        let connecting = timeout(ANSWER, WorkloadApiClient::connect(self.endpoint.0.clone()));
        let client = match connecting.await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return (Ended::of(&error), taken),
            Err(_) => return (Ended::Away(IdentityFailure::Timeout), taken),
        };
        self.client.store(Some(Arc::new(client.clone())));
        // It may answer no sooner than it has an SVID.
        let mut updates = match timeout(PATIENCE, client.stream_x509_contexts()).await {
            Ok(Ok(updates)) => updates,
            Ok(Err(error)) => return (Ended::of(&error), taken),
            Err(_) => return (Ended::Away(IdentityFailure::Timeout), taken),
        };
        loop {
            let update = select! {
                update = updates.next() => update,
                // A connection that brings nothing new in time may be one that nobody holds the other end of.
                () = self.standing.expiry() => return (Ended::Away(IdentityFailure::Expired), taken),
            };
            match update {
                Some(Ok(context)) => match self.adopt(&context) {
                    Ok(()) => taken += 1,
                    // The API is there, and its next message may be right again.
                    Err(failure) => self.standing.miss(&failure),
                },
                Some(Err(error)) => return (Ended::of(&error), taken),
                None => return (Ended::Away(IdentityFailure::unavailable("the Workload API hung up")), taken),
            }
        }
    }

    /// Each message is the whole state: what is not in it is gone.
    fn adopt(&self, context: &X509Context) -> Result<(), IdentityFailure> {
        let svid = self.choose(context)?;
        let chain = svid.cert_chain().iter().map(|certificate| certificate.as_bytes());
        let certificate = ClientCertificate::from_der(chain, svid.private_key().as_bytes());
        let certificate = certificate.map_err(|error| IdentityFailure::malformed(format_args!("the SVID: {error}")))?;
        if certificate.expires_at() <= SystemTime::now() {
            return Err(IdentityFailure::malformed("the Workload API gave an SVID that has expired"));
        }
        let proof =
            Proof { serial: Some(Arc::clone(certificate.serial())), expires_at: Some(certificate.expires_at()) };
        self.certificate.store(Some(Arc::new(certificate)));
        self.standing.prove(&svid.spiffe_id().to_string(), proof)
    }

    /// The SVID of the agent, among those of a workload that has several; the first one where nobody said which.
    fn choose<'a>(&self, context: &'a X509Context) -> Result<&'a X509Svid, IdentityFailure> {
        let first =
            context.default_svid().ok_or_else(|| IdentityFailure::malformed("the Workload API gave no SVID"))?;
        let Some(id) = self.standing.id().known() else { return Ok(first) };
        let wanted = context.svids().iter().find(|svid| svid.spiffe_id().to_string() == id);
        wanted.map(|svid| &**svid).ok_or_else(|| {
            let failure = IdentityFailure::Another { expected: id.into(), found: first.spiffe_id().to_string().into() };
            self.standing.lose(&failure);
            failure
        })
    }
}

impl fmt::Debug for Spiffe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, standing, certificate, client: _ } = self;
        f.debug_struct("Spiffe")
            .field("endpoint", endpoint)
            .field("standing", standing)
            .field("certificate", &certificate.load())
            .finish_non_exhaustive()
    }
}

/// How a connection ended.
enum Ended {
    /// Nobody is there, or nobody who makes sense.
    Away(IdentityFailure),
    /// The API knows this workload no longer.
    Withdrawn(IdentityFailure),
    /// The API does not take what we ask.
    Invalid(IdentityFailure),
}

impl Ended {
    fn of(error: &WorkloadApiError) -> Self {
        let why = said(error);
        match error {
            WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_) => {
                Self::Withdrawn(IdentityFailure::Rejected(why.into()))
            }
            error if error.is_invalid_argument() => Self::Invalid(IdentityFailure::Rejected(why.into())),
            WorkloadApiError::Transport(_) | WorkloadApiError::EmptyResponse => {
                Self::Away(IdentityFailure::Unavailable(why.into()))
            }
            // What is left is an answer that is not what the standard says; the library may gain kinds of it.
            _ => Self::Away(IdentityFailure::Malformed(why.into())),
        }
    }

    fn into_failure(self) -> IdentityFailure {
        match self {
            Self::Away(failure) | Self::Withdrawn(failure) | Self::Invalid(failure) => failure,
        }
    }
}

/// What went wrong. What the API itself says of it is the API's to choose, and not for a log.
fn said(error: &WorkloadApiError) -> String {
    use WorkloadApiError as E;

    let what = match error {
        E::PermissionDenied(_) => "permission denied".to_owned(),
        E::Transport(TransportError::Status(status)) => format!("gRPC status {}", status.code()),
        E::Transport(_) => "it can't be reached".to_owned(),
        // The library's own words. Their causes could quote the answer.
        E::NoIdentityIssued
        | E::EmptyResponse
        | E::MissingRequiredField { .. }
        | E::InvalidResponseField { .. }
        | E::X509Svid(_)
        | E::JwtSvid(_)
        | E::X509Bundle(_)
        | E::JwtBundle(_)
        | E::SpiffeId(_) => error.to_string(),
        _ => "its answer is not what the standard says".to_owned(),
    };
    match refused_by_kernel(error) {
        Some(why) => format!("the Workload API: {what}: {why}"),
        None => format!("the Workload API: {what}"),
    }
}

/// The kernel's word among the causes, which names nothing but what is wrong with a socket.
fn refused_by_kernel(error: &WorkloadApiError) -> Option<String> {
    let mut cause = error.source();
    while let Some(inner) = cause {
        let kernel = inner.downcast_ref::<io::Error>().filter(|error| error.raw_os_error().is_some());
        if let Some(error) = kernel {
            return Some(error.to_string());
        }
        cause = inner.source();
    }
    None
}

/// Whether it is what was asked for. A token for several audiences could be shown by one of them to another.
fn check(svid: &JwtSvid, id: &SpiffeId, audience: &str, now: SystemTime) -> Result<(), IdentityFailure> {
    if svid.spiffe_id() != id {
        let (expected, found) = (id.to_string().into(), svid.spiffe_id().to_string().into());
        return Err(IdentityFailure::Another { expected, found });
    }
    if svid.audience() != [audience] {
        return Err(IdentityFailure::malformed(
            "the Workload API gave a JWT-SVID for another audience than was asked for",
        ));
    }
    let left = u64::try_from(svid.expiry().unix_timestamp()).ok().map(|end| UNIX_EPOCH + Duration::from_secs(end));
    if left.is_none_or(|end| end <= now) {
        return Err(IdentityFailure::malformed("the Workload API gave a JWT-SVID that has expired"));
    }
    Ok(())
}

const AWAY: &str = "the Workload API is away";

/// How long a connection or an answer is waited for.
const ANSWER: Duration = Duration::from_secs(5);

/// How long the first SVID is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// After the first failure; twice as long each time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use ::spiffe::transport::GrpcStatusCode;

    use super::*;

    #[test]
    fn an_endpoint_is_a_socket_or_an_address() {
        for text in ["unix:///run/spire/agent.sock", "unix:/run/spire/agent.sock", "tcp://127.0.0.1:8081"] {
            assert!(!Endpoint::parse(text).unwrap().crosses_a_network(), "{text}");
        }
        assert!(Endpoint::parse("tcp://10.0.0.1:8081").unwrap().crosses_a_network());
        for text in
            ["", "/run/spire/agent.sock", "https://agent", "tcp://agent:8081", "unix://agent/x", "tcp://1.2.3.4"]
        {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn where_nobody_listens_there_is_no_proof_and_the_reason_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::parse(&format!("unix://{}/agent.sock", dir.path().display())).unwrap();
        let spiffe = Spiffe::new(endpoint, Id::default());
        let (ended, taken) = spiffe.session().await;
        let Ended::Away(failure) = ended else { panic!("nobody is there") };
        spiffe.standing.miss(&failure);
        let why = spiffe.standing.proof().unwrap_err().to_string();
        assert!(taken == 0 && why.contains("No such file"), "{why}");
        assert!(spiffe.certificate().is_err() && spiffe.token("vault").await.is_err());
    }

    #[test]
    fn what_the_api_says_decides_what_becomes_of_the_proof() {
        let status = |code| WorkloadApiError::Transport(TransportError::status(code, "said"));
        assert!(matches!(Ended::of(&WorkloadApiError::NoIdentityIssued), Ended::Withdrawn(_)));
        assert!(matches!(Ended::of(&WorkloadApiError::PermissionDenied("no".into())), Ended::Withdrawn(_)));
        assert!(matches!(Ended::of(&status(GrpcStatusCode::InvalidArgument)), Ended::Invalid(_)));
        assert!(matches!(Ended::of(&status(GrpcStatusCode::Unavailable)), Ended::Away(_)));
        let malformed = WorkloadApiError::MissingRequiredField { field: "X509SVID.bundle" };
        assert!(matches!(Ended::of(&malformed), Ended::Away(IdentityFailure::Malformed(_))));
    }

    #[test]
    fn what_went_wrong_is_told_without_what_the_api_says_of_it() {
        let status =
            TransportError::status_with_source(GrpcStatusCode::Unavailable, "canary", io::Error::other("canary"));
        let reset = TransportError::connect(io::Error::from_raw_os_error(104));
        for (error, told) in [
            (WorkloadApiError::PermissionDenied("canary".into()), "permission denied"),
            (WorkloadApiError::HintNotFound("canary".into()), "its answer is not what the standard says"),
            (WorkloadApiError::Transport(status), "gRPC status unavailable"),
            (WorkloadApiError::Transport(reset), "it can't be reached: Connection reset by peer (os error 104)"),
            (WorkloadApiError::NoIdentityIssued, "no identity issued"),
        ] {
            assert_eq!(said(&error), format!("the Workload API: {told}"));
        }
    }
}

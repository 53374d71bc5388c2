//! What a request is signed for: service, region, and what stands for its body.
//!
//! AWS's own host names are believed, then the configuration; the agent's claim only where the host agrees with it. A
//! request that can't be signed anew in the form that its client chose is refused, with what to change.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    claim::{Algorithm, Claim, Form},
    sigv4::Paths,
};
use crate::refusal::Refusal;

/// What requests are signed for where their host does not say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// E.g. `eu-west-1`.
    pub region: Option<String>,
    /// E.g. `s3`. What is set here is signed for, whatever the host says.
    pub service: Option<String>,
}

/// How one request is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signing {
    pub(super) region: Box<str>,
    pub(super) service: Box<str>,
    pub(super) payload: Payload,
    /// The query holds what is left of a signature.
    pub(super) presigned: Option<Algorithm>,
}

/// What stands for the body in a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload {
    /// What the request's own `x-amz-content-sha256` says.
    Told,
    /// Nothing: it is not signed, as in a presigned URL.
    Unsigned,
    /// The hash of the body, which has to be held for that.
    Hashed,
}

impl Scope {
    /// How a request to this host is signed.
    ///
    /// # Errors
    /// Why it can't be, and what to change.
    pub fn signing(&self, claim: Option<&Claim>, host: &str, headers: &HeaderMap) -> Result<Signing, Refusal> {
        if claim.is_some_and(|claim| claim.algorithm == Algorithm::Other) {
            return Err(SIGV4A);
        }
        let endpoint = Endpoint::of(host);
        let service = self.service(claim, endpoint.as_ref())?;
        let region = match &endpoint {
            Some(Endpoint { region: Some(region), .. }) => *region,
            _ => match (&self.region, &endpoint) {
                (Some(region), _) => region.as_str(),
                (None, Some(Endpoint { china: false, .. })) => GLOBAL,
                (None, _) => return Err(NO_REGION),
            },
        };
        let presigned = claim.filter(|claim| claim.form == Form::Query).map(|claim| claim.algorithm);
        let payload = match payload(headers)? {
            Payload::Hashed if presigned.is_some() && is_s3(service) => Payload::Unsigned,
            payload => payload,
        };
        Ok(Signing { region: region.into(), service: service.into(), payload, presigned })
    }

    fn service<'a>(&'a self, claim: Option<&'a Claim>, endpoint: Option<&Endpoint<'a>>) -> Result<&'a str, Refusal> {
        if let Some(service) = &self.service {
            return Ok(service);
        }
        let endpoint = endpoint.ok_or(NO_SERVICE)?;
        let own = endpoint.signing_name();
        match claim.and_then(|claim| claim.service.as_deref()) {
            None => Ok(own),
            Some(claimed) if claimed == own || endpoint.is_of(claimed) => Ok(claimed),
            Some(_) => Err(OTHER_SERVICE),
        }
    }
}

impl Signing {
    /// Whether the body has to be at hand.
    pub fn needs_body(&self) -> bool {
        self.payload == Payload::Hashed
    }

    /// Whether the request tells what stands for its body in a header of its own.
    pub(super) fn tells_payload(&self) -> bool {
        is_s3(&self.service)
    }

    pub(super) fn paths(&self) -> Paths {
        if is_s3(&self.service) { Paths::Decoded } else { Paths::AsSent }
    }
}

/// S3 and those that speak like it.
fn is_s3(service: &str) -> bool {
    matches!(service, "s3" | "s3-outposts" | "s3-object-lambda" | "s3express")
}

/// Which of the modes that are seen in the field a request uses.
fn payload(headers: &HeaderMap) -> Result<Payload, Refusal> {
    let mut told = headers.get_all(&CONTENT_SHA256).iter();
    let Some(value) = told.next().map(HeaderValue::as_bytes) else { return Ok(Payload::Hashed) };
    let is_hash = value.len() == 64 && value.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match value {
        _ if told.next().is_some() => Err(Refusal::MalformedRequest("the request has two X-Amz-Content-Sha256 fields")),
        b"UNSIGNED-PAYLOAD" | b"STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(Payload::Told),
        _ if is_hash => Ok(Payload::Told),
        _ if value.starts_with(b"STREAMING-AWS4-ECDSA-") => Err(SIGV4A),
        _ if value.starts_with(b"STREAMING-") => Err(CHUNKS),
        _ => Err(Refusal::MalformedRequest("the X-Amz-Content-Sha256 is neither a SHA-256 hash nor a known word")),
    }
}

/// What a host name of AWS's says.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint<'a> {
    /// E.g. `s3`, `bedrock-runtime`.
    prefix: &'a str,
    region: Option<&'a str>,
    china: bool,
}

impl<'a> Endpoint<'a> {
    /// Read from the right, because what stands left of the service (a bucket, an API's id) is its customers' to choose.
    fn of(host: &'a str) -> Option<Self> {
        let (rest, china) = match host.strip_suffix(".amazonaws.com.cn") {
            Some(rest) => (rest, true),
            None => (host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".api.aws"))?, false),
        };
        let mut labels = rest.rsplit('.').filter(|label| *label != "dualstack");
        let last = labels.next().filter(|label| !label.is_empty())?;
        let next = labels.next();
        let (prefix, region) = match next {
            Some(prefix) if is_region(last) => (prefix, Some(last)),
            // E.g. `search-d-abc.eu-west-1.es.amazonaws.com`.
            Some(region) if is_region(region) && !last.starts_with("s3") => (last, Some(region)),
            _ if is_region(last) => return None,
            _ => (last, None),
        };
        // S3's old form has the region in the same label.
        match prefix.strip_prefix("s3-").filter(|region| is_region(region)) {
            Some(within) if region.is_none() => Some(Self { prefix: "s3", region: Some(within), china }),
            _ => Some(Self { prefix: prefix.strip_suffix("-fips").unwrap_or(prefix), region, china }),
        }
    }

    /// The name in credential scopes, as far as it is known not to be the one in host names.
    fn signing_name(&self) -> &'a str {
        match self.prefix {
            "s3-accelerate" | "s3-accesspoint" | "s3-control" => "s3",
            "email" => "ses",
            "bedrock-runtime" | "bedrock-agent" | "bedrock-agent-runtime" => "bedrock",
            other => other,
        }
    }

    /// Whether the name of this service begins the host's, e.g. `bedrock` and `bedrock-data-automation`.
    fn is_of(&self, service: &str) -> bool {
        self.prefix.strip_prefix(service).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

/// E.g. `eu-west-1`, `us-gov-east-1`.
fn is_region(label: &str) -> bool {
    let mut parts = label.split('-');
    let area = parts.next().is_some_and(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_lowercase()));
    let mut rest = parts.rev();
    let number = rest.next().is_some_and(|part| part.len() == 1 && part.bytes().all(|b| b.is_ascii_digit()));
    let words: Vec<&str> = rest.collect();
    let lower = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    area && number && matches!(words.len(), 1 | 2) && words.iter().all(lower)
}

/// Where the request tells what stands for its body.
pub(super) const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");

/// What AWS's hosts without a region sign for.
const GLOBAL: &str = "us-east-1";

const SIGV4A: Refusal = Refusal::UnsupportedProtocol(
    "only AWS Signature Version 4 can be signed anew, not SigV4A; use an endpoint of one region",
);
const CHUNKS: Refusal = Refusal::UnsupportedProtocol(
    "a body that is signed chunk by chunk can't be signed anew; turn payload signing off in the client, so that it sends \
     UNSIGNED-PAYLOAD or STREAMING-UNSIGNED-PAYLOAD-TRAILER",
);
const NO_REGION: Refusal =
    Refusal::UnsupportedProtocol("the host does not say which AWS region it is in; set `region` on its credential");
const NO_SERVICE: Refusal =
    Refusal::UnsupportedProtocol("the host does not say which AWS service it is; set `service` on its credential");
const OTHER_SERVICE: Refusal = Refusal::UnsupportedProtocol(
    "the request is signed for another AWS service than its host's; set `service` on the credential if that is right",
);

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Scope = Scope { region: None, service: None };

    fn claim(form: Form, service: &str) -> Claim {
        Claim { form, algorithm: Algorithm::V4, service: Some(service.into()) }
    }

    fn signing(scope: &Scope, claim: Option<&Claim>, host: &str, sha256: &str) -> Result<Signing, String> {
        let mut headers = HeaderMap::new();
        if !sha256.is_empty() {
            headers.insert(CONTENT_SHA256, HeaderValue::from_str(sha256).unwrap());
        }
        scope.signing(claim, host, &headers).map_err(|refusal| format!("{} {}", refusal.label(), refusal.detail()))
    }

    fn scope(region: &str, service: &str) -> Scope {
        let set = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Scope { region: set(region), service: set(service) }
    }

    #[test]
    fn a_host_of_aws_says_service_and_region() {
        let table = [
            ("s3.eu-west-1.amazonaws.com", "s3", "eu-west-1"),
            ("bucket.s3.eu-west-1.amazonaws.com", "s3", "eu-west-1"),
            ("sts.us-east-1.s3.eu-west-1.amazonaws.com", "s3", "eu-west-1"),
            ("bucket.s3.dualstack.us-gov-west-1.amazonaws.com", "s3", "us-gov-west-1"),
            ("bucket.s3-fips.us-east-2.amazonaws.com", "s3", "us-east-2"),
            ("bucket.s3-eu-west-1.amazonaws.com", "s3", "eu-west-1"),
            ("bucket.s3.amazonaws.com", "s3", "us-east-1"),
            ("eu-west-2.s3.amazonaws.com", "s3", "us-east-1"),
            ("bucket.s3-accelerate.amazonaws.com", "s3", "us-east-1"),
            ("ap-1.s3-accesspoint.eu-west-1.amazonaws.com", "s3", "eu-west-1"),
            ("s3.cn-north-1.amazonaws.com.cn", "s3", "cn-north-1"),
            ("dynamodb.eu-central-1.amazonaws.com", "dynamodb", "eu-central-1"),
            ("abc.execute-api.eu-west-1.amazonaws.com", "execute-api", "eu-west-1"),
            ("search-d-abc.eu-west-1.es.amazonaws.com", "es", "eu-west-1"),
            ("email.eu-west-1.amazonaws.com", "ses", "eu-west-1"),
            ("bedrock-runtime.us-west-2.amazonaws.com", "bedrock", "us-west-2"),
            ("iam.amazonaws.com", "iam", "us-east-1"),
            ("sts.amazonaws.com", "sts", "us-east-1"),
            ("lambda.eu-west-1.api.aws", "lambda", "eu-west-1"),
        ];
        for (host, service, region) in table {
            let signing = signing(&ANY, None, host, "").expect(host);
            assert_eq!((&*signing.service, &*signing.region), (service, region), "{host}");
        }
    }

    #[test]
    fn where_the_host_says_nothing_the_configuration_does_and_a_claim_never() {
        let s3 = claim(Form::Header, "s3");
        for host in ["minio.test", "amazonaws.com", "s3.amazonaws.com.evil.test", "eu-west-1.amazonaws.com"] {
            let refused = signing(&ANY, Some(&s3), host, "").unwrap_err();
            assert!(refused.starts_with("unsupported_protocol") && refused.contains("`service`"), "{host}: {refused}");
            let refused = signing(&scope("", "s3"), Some(&s3), host, "").unwrap_err();
            assert!(refused.contains("`region`"), "{host}: {refused}");
            let signing = signing(&scope("eu-west-1", "s3"), Some(&claim(Form::Header, "sts")), host, "").expect(host);
            assert_eq!((&*signing.service, &*signing.region), ("s3", "eu-west-1"));
        }
        let refused = signing(&ANY, None, "iam.amazonaws.com.cn", "").unwrap_err();
        assert!(refused.contains("`region`"), "{refused}");
        let global = signing(&scope("eu-west-3", ""), None, "bucket.s3-accelerate.amazonaws.com", "").unwrap();
        assert_eq!(&*global.region, "eu-west-3");
        let regional = signing(&scope("eu-west-3", ""), None, "s3.eu-west-1.amazonaws.com", "").unwrap();
        assert_eq!(&*regional.region, "eu-west-1");
    }

    #[test]
    fn a_claim_is_taken_where_the_host_agrees_with_it() {
        let table = [
            ("s3.eu-west-1.amazonaws.com", "s3", true),
            ("s3.eu-west-1.amazonaws.com", "sts", false),
            ("sts.s3.eu-west-1.amazonaws.com", "sts", false),
            ("bedrock-data-automation.us-east-1.amazonaws.com", "bedrock", true),
            ("bedrock.us-east-1.amazonaws.com", "bed", false),
            ("email.eu-west-1.amazonaws.com", "ses", true),
            ("entitlement.marketplace.us-east-1.amazonaws.com", "aws-marketplace", false),
        ];
        for (host, service, taken) in table {
            let outcome = signing(&ANY, Some(&claim(Form::Header, service)), host, "");
            match outcome {
                Ok(signing) => assert!(taken && *signing.service == *service, "{host} {service}"),
                Err(refused) => assert!(!taken && refused.contains("another AWS service"), "{host} {service}"),
            }
        }
        let told = signing(
            &scope("", "aws-marketplace"),
            Some(&claim(Form::Header, "aws-marketplace")),
            "entitlement.marketplace.us-east-1.amazonaws.com",
            "",
        );
        assert_eq!(&*told.unwrap().service, "aws-marketplace");
    }

    #[test]
    fn each_mode_of_payloads_is_signed_as_it_is_or_refused() {
        let hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let host = "s3.eu-west-1.amazonaws.com";
        for told in [hash, "UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"] {
            assert_eq!(signing(&ANY, None, host, told).unwrap().payload, Payload::Told, "{told}");
        }
        let refused = [
            ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "unsupported_protocol a body that is signed chunk by chunk"),
            ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", "unsupported_protocol a body that is signed chunk by chunk"),
            ("STREAMING-AWS4-HMAC-SHA256-EVENTS", "unsupported_protocol a body that is signed chunk by chunk"),
            ("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "unsupported_protocol only AWS Signature Version 4"),
            ("unsigned-payload", "malformed_request"),
            (&hash[1..], "malformed_request"),
            (&hash.to_uppercase(), "malformed_request"),
        ];
        for (told, why) in refused {
            let refusal = signing(&ANY, None, host, told).unwrap_err();
            assert!(refusal.starts_with(why), "{told}: {refusal}");
        }
        let mut twice = HeaderMap::new();
        twice.append(CONTENT_SHA256, HeaderValue::from_static("UNSIGNED-PAYLOAD"));
        twice.append(CONTENT_SHA256, HeaderValue::from_str(hash).unwrap());
        assert!(ANY.signing(None, host, &twice).is_err());
    }

    #[test]
    fn a_body_is_hashed_where_nothing_is_told_but_not_for_a_presigned_url_of_s3() {
        let presigned = claim(Form::Query, "s3");
        let s3 = signing(&ANY, Some(&presigned), "s3.eu-west-1.amazonaws.com", "").unwrap();
        assert_eq!((s3.payload, s3.presigned, s3.needs_body()), (Payload::Unsigned, Some(Algorithm::V4), false));
        let sts = signing(&ANY, Some(&claim(Form::Query, "sts")), "sts.eu-west-1.amazonaws.com", "").unwrap();
        assert_eq!((sts.payload, sts.needs_body()), (Payload::Hashed, true));
        let plain = signing(&ANY, None, "dynamodb.eu-west-1.amazonaws.com", "").unwrap();
        assert_eq!((plain.payload, plain.presigned), (Payload::Hashed, None));
        assert!(!plain.tells_payload() && plain.paths() == Paths::AsSent);
    }

    #[test]
    fn sigv4a_is_refused() {
        let claim = Claim { form: Form::Header, algorithm: Algorithm::Other, service: Some("s3".into()) };
        let refused = signing(&ANY, Some(&claim), "s3.eu-west-1.amazonaws.com", "UNSIGNED-PAYLOAD").unwrap_err();
        assert!(refused.starts_with("unsupported_protocol only AWS Signature Version 4"), "{refused}");
    }
}

//! Signs requests with keys that were minted. The secret key never leaves this module: what goes onto the wire is a
//! signature, and the session's token.

use std::fmt;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, CONTENT_TYPE},
    request::Parts,
    uri::{PathAndQuery, Uri},
};
use jiff::{Timestamp, tz::TimeZone};
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::{
    super::{Failure, Onto, reply, sensitive},
    claim::Algorithm,
    scope::{CONTENT_SHA256, Payload, Signing},
    sigv4::{Scope, Signable, payload_hash},
};
use crate::{call::http::Scheme, refusal::CredentialRefusal};

/// Keys that sign requests.
#[derive(PartialEq, Eq)]
pub(in crate::credential) struct Signer {
    access_key: String,
    /// The secret key with `AWS4` in front, which is how it is used.
    key: Zeroizing<String>,
    token: HeaderValue,
}

impl Signer {
    /// Keys as STS gave them. What can't stand in a header is refused.
    pub(in crate::credential) fn new(access_key: &str, secret_key: &str, token: &str) -> Result<Self, Failure> {
        let plain = !access_key.is_empty() && access_key.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !plain || !reply::is_token(secret_key) || !reply::is_token(token) {
            return Err(Failure::malformed("the keys are empty or hold characters that they must not"));
        }
        let mut key = Zeroizing::new(String::with_capacity(4 + secret_key.len()));
        key.push_str("AWS4");
        key.push_str(secret_key);
        Ok(Self { access_key: access_key.to_owned(), key, token: sensitive(&[token])? })
    }

    /// Signs a request anew: what is left of its own signature goes. Fails where the body that has to be hashed, or the
    /// room for the signature, is not there.
    pub(in crate::credential) fn sign(&self, parts: &mut Parts, onto: &Onto<'_>) -> Result<(), CredentialRefusal> {
        let now = Timestamp::now().to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
        self.sign_at(&now, parts, onto)
    }

    fn sign_at(&self, time: &str, parts: &mut Parts, onto: &Onto<'_>) -> Result<(), CredentialRefusal> {
        // Whoever makes a request for such a credential settles first what it is signed for.
        let signing = onto.signing.ok_or(CredentialRefusal::Malformed)?;
        let payload = payload(signing, &mut parts.headers, onto.body)?;
        put(&mut parts.headers, DATE, time.parse().expect("digits and two letters are a header value"))?;
        put(&mut parts.headers, SECURITY_TOKEN, self.token.clone())?;
        if let Some(uri) = without_signature(&parts.uri, signing.presigned) {
            parts.uri = uri;
        }
        let host = Scheme::Https.authority(onto.host, onto.port);
        let request = Signable {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            paths: signing.paths(),
            query: parts.uri.query().unwrap_or_default(),
            host: &host,
            headers: &parts.headers,
            names: is_signed,
            payload: &payload,
        };
        let scope = Scope { time, region: &signing.region, service: &signing.service };
        let authorization = scope.authorization(&self.access_key, &self.key, &request);
        let mut authorization = HeaderValue::try_from(authorization).map_err(|_| CredentialRefusal::Malformed)?;
        authorization.set_sensitive(true);
        put(&mut parts.headers, AUTHORIZATION, authorization)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

/// What stands for the body, and the header that tells it where one has to.
fn payload(signing: &Signing, headers: &mut HeaderMap, body: Option<&[u8]>) -> Result<String, CredentialRefusal> {
    let payload = match signing.payload {
        // Its header may have been taken away since.
        Payload::Told => {
            let told = headers.get(&CONTENT_SHA256).and_then(|value| value.to_str().ok());
            return told.map(str::to_owned).ok_or(CredentialRefusal::Malformed);
        }
        Payload::Unsigned => "UNSIGNED-PAYLOAD".to_owned(),
        Payload::Hashed => payload_hash(body.ok_or(CredentialRefusal::Malformed)?),
    };
    if signing.tells_payload() {
        put(headers, CONTENT_SHA256, payload.parse().expect("digits or a word are a header value"))?;
    }
    Ok(payload)
}

/// What must be signed where it is there; the rest is protected by TLS, and passes through others who may change it.
fn is_signed(name: &str) -> bool {
    name.starts_with("x-amz-") || name == CONTENT_TYPE.as_str() || name == "content-md5"
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) -> Result<(), CredentialRefusal> {
    headers.try_insert(name, value).map(drop).map_err(|_| CredentialRefusal::Malformed)
}

/// The target without the parameters of a signature, if it has any: an origin refuses two ways to authenticate.
fn without_signature(uri: &Uri, presigned: Option<Algorithm>) -> Option<Uri> {
    let query = uri.query()?;
    let is_of_signature = |pair: &str| {
        let raw = pair.split('=').next().unwrap_or_default();
        let name = percent_decode_str(raw).decode_utf8_lossy();
        SIGNATURE.iter().any(|known| name.eq_ignore_ascii_case(known))
            || (presigned == Some(Algorithm::V2) && name == "Expires")
    };
    if !query.split('&').any(is_of_signature) {
        return None;
    }
    let mut target = String::with_capacity(uri.path().len() + query.len());
    target.push_str(uri.path());
    for (index, kept) in query.split('&').filter(|pair| !is_of_signature(pair)).enumerate() {
        target.push(if index == 0 { '?' } else { '&' });
        target.push_str(kept);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query =
        Some(PathAndQuery::try_from(target).expect("a valid target is one without some of its pairs"));
    Some(Uri::from_parts(parts).expect("the scheme and authority were valid with this path"))
}

/// What a presigned URL holds for its signature. Those that are secrets were taken away before.
const SIGNATURE: [&str; 8] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
    "X-Amz-Security-Token",
    "X-Amz-Content-Sha256",
];

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "20150830T123600Z";

    fn signer() -> Signer {
        Signer::new("ASIAEXAMPLE", "canary-5ecret", "token==").unwrap()
    }

    fn signing(service: &str, payload: Payload, presigned: Option<Algorithm>) -> Signing {
        Signing { region: "eu-west-1".into(), service: service.into(), payload, presigned }
    }

    fn signed(
        signing: &Signing,
        target: &str,
        headers: &[(&'static str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Parts, CredentialRefusal> {
        let mut request = http::Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let onto = Onto { host: "s3.eu-west-1.amazonaws.com", port: 443, body, signing: Some(signing) };
        signer().sign_at(TIME, &mut parts, &onto)?;
        Ok(parts)
    }

    fn authorization(parts: &Parts) -> &str {
        parts.headers["authorization"].to_str().unwrap()
    }

    #[test]
    fn what_stood_there_of_a_signature_is_replaced() {
        let dummy = [
            ("authorization", "AWS4-HMAC-SHA256 Credential=AKIADUMMY/20000101/eu/s3/aws4_request"),
            ("x-amz-date", "20000101T000000Z"),
            ("x-amz-security-token", "dummy"),
            ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            ("x-amz-meta-name", "a  b"),
            ("content-type", "text/plain"),
            ("range", "bytes=0-1"),
        ];
        let parts = signed(&signing("s3", Payload::Told, None), "/b/k", &dummy, None).unwrap();
        assert_eq!(parts.headers["x-amz-date"], TIME);
        assert_eq!(parts.headers["x-amz-security-token"], "token==");
        assert!(parts.headers["x-amz-security-token"].is_sensitive());
        let signed =
            "SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date;x-amz-meta-name;x-amz-security-token,";
        assert!(authorization(&parts).contains(signed), "{}", authorization(&parts));
        assert!(authorization(&parts).contains("Credential=ASIAEXAMPLE/20150830/eu-west-1/s3/aws4_request,"));
        assert_eq!(parts.headers.get_all("authorization").iter().count(), 1);
    }

    #[test]
    fn a_presigned_url_becomes_a_request_that_is_signed_in_its_headers() {
        let target = "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20000101T000000Z&X-Amz-Expires=60\
                      &X-Amz-SignedHeaders=host&versionId=1&response-content-type=a%2Fb";
        let signing_of_url = signing("s3", Payload::Unsigned, Some(Algorithm::V4));
        let parts = signed(&signing_of_url, target, &[], None).unwrap();
        assert_eq!(parts.uri, "/b/k?versionId=1&response-content-type=a%2Fb");
        assert_eq!(parts.headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
        let first = signing("s3", Payload::Unsigned, Some(Algorithm::V2));
        assert_eq!(signed(&first, "/b/k?Expires=1", &[], None).unwrap().uri, "/b/k");
        let other = signing("s3", Payload::Unsigned, None);
        assert_eq!(signed(&other, "/b/k?Expires=1&x-amz-date=1", &[], None).unwrap().uri, "/b/k?Expires=1");
    }

    #[test]
    fn a_body_that_is_hashed_must_be_there() {
        let sts = signing("sts", Payload::Hashed, None);
        assert_eq!(signed(&sts, "/", &[], None).err(), Some(CredentialRefusal::Malformed));
        let parts = signed(&sts, "/", &[], Some(b"")).unwrap();
        assert!(!parts.headers.contains_key("x-amz-content-sha256"));
        let s3 = signing("s3", Payload::Hashed, None);
        let parts = signed(&s3, "/", &[], Some(b"Param1=value1")).unwrap();
        let hash = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e";
        assert_eq!(parts.headers["x-amz-content-sha256"], hash);
    }

    #[test]
    fn without_what_was_settled_nothing_is_signed() {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        let onto = Onto { host: "s3.eu-west-1.amazonaws.com", port: 443, body: None, signing: None };
        assert_eq!(signer().sign(&mut parts, &onto), Err(CredentialRefusal::Malformed));
        assert!(parts.headers.is_empty());
        let told = signing("s3", Payload::Told, None);
        assert_eq!(signed(&told, "/", &[], Some(b"")).err(), Some(CredentialRefusal::Malformed));
    }

    #[test]
    fn keys_that_can_not_be_such_are_refused() {
        for (access_key, secret_key, token) in
            [("", "s", "t"), ("A/B", "s", "t"), ("A", "", "t"), ("A", "s", ""), ("A", "s\n", "t"), ("A", "s", "t t")]
        {
            assert!(Signer::new(access_key, secret_key, token).is_err(), "{access_key} {secret_key} {token}");
        }
        assert!(!format!("{:?}", signer()).contains("canary"));
    }
}

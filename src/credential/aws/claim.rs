//! What the agent's own signature says, read before it is taken away. Its keys are dummies, so nothing of it is verified:
//! all of it is a claim.

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION, request::Parts};
use percent_encoding::percent_decode_str;

use super::sigv4::ALGORITHM;

/// What a request says of its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub(super) form: Form,
    pub(super) algorithm: Algorithm,
    /// The service in its credential scope.
    pub(super) service: Option<Box<str>>,
}

/// Where the signature stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Header,
    /// A presigned URL.
    Query,
}

/// What it was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// AWS4-HMAC-SHA256.
    V4,
    /// S3's first one, which some clients still make presigned URLs with.
    V2,
    /// SigV4A, or one that nobody knows here.
    Other,
}

impl Claim {
    /// The claim of this request, if it makes one. Most make none, and pay for a look at two places.
    pub fn of(parts: &Parts) -> Option<Box<Self>> {
        let claim = Self::of_header(&parts.headers).or_else(|| Self::of_query(parts.uri.query()?));
        claim.map(Box::new)
    }

    fn of_header(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes)?;
        if !text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"AWS4-")) {
            return None;
        }
        let text = std::str::from_utf8(text).unwrap_or_default();
        let (algorithm, fields) = text.split_once(' ').unwrap_or((text, ""));
        let credential = fields.split(',').find_map(|field| field.trim().strip_prefix("Credential="));
        Some(Self { form: Form::Header, algorithm: Algorithm::named(algorithm), service: credential.and_then(service) })
    }

    fn of_query(query: &str) -> Option<Self> {
        if query.contains("X-Amz-Signature=") {
            let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name));
            let credential = value("X-Amz-Credential=").map(|text| percent_decode_str(text).decode_utf8_lossy());
            return Some(Self {
                form: Form::Query,
                algorithm: Algorithm::named(value("X-Amz-Algorithm=").unwrap_or_default()),
                service: credential.and_then(|credential| service(&credential)),
            });
        }
        let first = query.contains("AWSAccessKeyId=") && query.contains("Signature=");
        first.then_some(Self { form: Form::Query, algorithm: Algorithm::V2, service: Some("s3".into()) })
    }
}

impl Algorithm {
    fn named(name: &str) -> Self {
        if name == ALGORITHM { Self::V4 } else { Self::Other }
    }
}

/// The service of `KEY/DATE/REGION/SERVICE/aws4_request`.
fn service(credential: &str) -> Option<Box<str>> {
    let mut parts = credential.rsplit('/');
    let (last, service) = (parts.next()?, parts.next()?);
    let plain = !service.is_empty() && service.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (last == "aws4_request" && plain).then(|| service.to_ascii_lowercase().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(target: &str, authorization: &str) -> Option<(Form, Algorithm, Option<String>)> {
        let mut request = http::Request::builder().uri(target);
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        Claim::of(&parts).map(|claim| (claim.form, claim.algorithm, claim.service.map(Into::into)))
    }

    #[test]
    fn a_signature_is_found_in_both_forms() {
        let s3 = || Some("s3".to_owned());
        let scope = "AKIAEXAMPLE/20260101/eu-west-1/s3/aws4_request";
        let header = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=00");
        assert_eq!(claim("/", &header), Some((Form::Header, Algorithm::V4, s3())));
        let tight = format!("AWS4-HMAC-SHA256 SignedHeaders=host,Credential={scope},Signature=00");
        assert_eq!(claim("/", &tight), Some((Form::Header, Algorithm::V4, s3())));
        let query = "/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20260101%2Feu-west-1%2Fs3%2Faws4_request&X-Amz-Signature=00";
        assert_eq!(claim(query, ""), Some((Form::Query, Algorithm::V4, s3())));
        assert_eq!(
            claim("/k?AWSAccessKeyId=AKIA&Signature=00&Expires=1", ""),
            Some((Form::Query, Algorithm::V2, s3()))
        );
    }

    #[test]
    fn what_is_none_or_can_not_be_read_claims_nothing() {
        for authorization in ["", "Bearer AWS4-HMAC-SHA256", "Basic QVdTNC0=", "AWS AKIA:sig"] {
            assert_eq!(claim("/?Signature=1&X-Amz-Date=1", authorization), None, "{authorization}");
        }
        let other = "AWS4-ECDSA-P256-SHA256 Credential=AKIA/20260101/s3/aws4_request, Signature=00";
        assert_eq!(claim("/", other), Some((Form::Header, Algorithm::Other, Some("s3".to_owned()))));
        for credential in
            ["", "AKIA", "AKIA/20260101/eu-west-1/s3/aws5", "a/b/c/s 3/aws4_request", "a/b/c//aws4_request"]
        {
            let header = format!("AWS4-HMAC-SHA256 Credential={credential}, Signature=00");
            assert_eq!(claim("/", &header), Some((Form::Header, Algorithm::V4, None)), "{credential}");
        }
    }
}

//! AWS Signature Version 4: a key that is good for one day, region and service, and a signature over one request's head
//! and the hash of its body.
//!
//! Written on the one crypto library: the published crate brings a second one, copies keys into memory that is not wiped,
//! and can log whole requests. The canonical request is hashed as it is made and stands nowhere.

use std::borrow::Cow;

use aws_lc_rs::{
    digest::{self, SHA256},
    hmac,
};
use http::{HeaderMap, HeaderValue};
use percent_encoding::{percent_decode_str, percent_encode};

use super::super::UNRESERVED;
use crate::telemetry::trace::hex;

/// A request, as far as it is signed.
pub(super) struct Signable<'a> {
    pub(super) method: &'a str,
    /// As it is sent.
    pub(super) path: &'a str,
    pub(super) paths: Paths,
    /// As it is sent.
    pub(super) query: &'a str,
    /// As it is sent in `Host` or `:authority`, which the headers don't hold.
    pub(super) host: &'a str,
    pub(super) headers: &'a HeaderMap,
    /// The names of the headers to sign, in lower case.
    pub(super) names: fn(&str) -> bool,
    /// The hash of the body, or the word that stands for one that is not signed.
    pub(super) payload: &'a str,
}

/// How a service reads a path before it compares signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paths {
    /// Decoded: S3 and what goes with it.
    Decoded,
    /// As it came: everyone else.
    AsSent,
}

/// Where and when a signature is good.
pub(super) struct Scope<'a> {
    /// E.g. `20150830T123600Z`.
    pub(super) time: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

impl Scope<'_> {
    /// The `Authorization` for this request. The key is the secret access key with `AWS4` in front.
    pub(super) fn authorization(&self, access_key: &str, key: &str, request: &Signable<'_>) -> String {
        let Self { time, region, service } = self;
        let date = self.date();
        let (digest, signed) = request.digest();
        let text = format!("{ALGORITHM}\n{time}\n{date}/{region}/{service}/{TERMINATOR}\n{}", digits(digest.as_ref()));
        let signature = digits(hmac::sign(&self.key(key.as_bytes()), text.as_bytes()).as_ref());
        format!(
            "{ALGORITHM} Credential={access_key}/{date}/{region}/{service}/{TERMINATOR}, SignedHeaders={signed}, \
             Signature={signature}"
        )
    }

    fn date(&self) -> &str {
        self.time.split('T').next().unwrap_or_default()
    }

    fn key(&self, secret: &[u8]) -> hmac::Key {
        let of = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
        let date = of(secret, self.date());
        let region = of(date.as_ref(), self.region);
        let service = of(region.as_ref(), self.service);
        hmac::Key::new(hmac::HMAC_SHA256, of(service.as_ref(), TERMINATOR).as_ref())
    }
}

/// The hash of a body, in the form that a request tells it in.
pub(super) fn payload_hash(body: &[u8]) -> String {
    digits(digest::digest(&SHA256, body).as_ref())
}

impl Signable<'_> {
    /// The hash of the canonical request, and the names of the headers in it.
    fn digest(&self) -> (digest::Digest, String) {
        let mut names: Vec<&str> =
            self.headers.keys().map(http::HeaderName::as_str).filter(|name| (self.names)(name)).collect();
        names.push("host");
        names.sort_unstable();
        let signed = names.join(";");
        let mut canonical = digest::Context::new(&SHA256);
        for line in [self.method, &self.canonical_path(), &canonical_query(self.query)] {
            canonical.update(line.as_bytes());
            canonical.update(b"\n");
        }
        for name in names {
            canonical.update(name.as_bytes());
            canonical.update(b":");
            match name {
                "host" => canonical.update(self.host.as_bytes()),
                _ => update_values(&mut canonical, self.headers.get_all(name).iter()),
            }
            canonical.update(b"\n");
        }
        for piece in ["\n", &signed, "\n", self.payload] {
            canonical.update(piece.as_bytes());
        }
        (canonical.finish(), signed)
    }

    fn canonical_path(&self) -> String {
        let mut path = String::with_capacity(self.path.len() + 16);
        for (index, segment) in self.path.split('/').enumerate() {
            if index > 0 {
                path.push('/');
            }
            match self.paths {
                Paths::Decoded => push_recoded(&mut path, segment),
                Paths::AsSent => path.extend(percent_encode(segment.as_bytes(), UNRESERVED)),
            }
        }
        path
    }
}

/// Trimmed, with single spaces, and joined.
fn update_values<'a>(canonical: &mut digest::Context, values: impl Iterator<Item = &'a HeaderValue>) {
    for (index, value) in values.enumerate() {
        if index > 0 {
            canonical.update(b",");
        }
        let words = value.as_bytes().split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        for (index, word) in words.enumerate() {
            if index > 0 {
                canonical.update(b" ");
            }
            canonical.update(word);
        }
    }
}

/// Every pair encoded in the one way, in the order of what was encoded. A plus is a space, as in a form.
fn canonical_query(query: &str) -> String {
    let spaced: Cow<'_, str> = if query.contains('+') { query.replace('+', "%20").into() } else { query.into() };
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in spaced.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let mut recoded = (String::with_capacity(name.len()), String::with_capacity(value.len()));
        push_recoded(&mut recoded.0, name);
        push_recoded(&mut recoded.1, value);
        pairs.push(recoded);
    }
    pairs.sort_unstable();
    let mut canonical = String::with_capacity(query.len() + 16);
    for (name, value) in &pairs {
        if !canonical.is_empty() {
            canonical.push('&');
        }
        canonical.push_str(name);
        canonical.push('=');
        canonical.push_str(value);
    }
    canonical
}

fn push_recoded(to: &mut String, raw: &str) {
    let decoded: Cow<'_, [u8]> = percent_decode_str(raw).into();
    to.extend(percent_encode(&decoded, UNRESERVED));
}

fn digits(bytes: &[u8]) -> String {
    let mut digits = vec![0; 2 * bytes.len()];
    hex(bytes, &mut digits);
    String::from_utf8(digits).expect("hexadecimal digits are ASCII")
}

/// The one algorithm that is spoken here.
pub(super) const ALGORITHM: &str = "AWS4-HMAC-SHA256";

const TERMINATOR: &str = "aws4_request";

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AWS4wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const TOKEN: &str = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
    const UNRESERVED_TEXT: &str = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

    struct Vector {
        target: &'static str,
        method: &'static str,
        headers: &'static [(&'static str, &'static str)],
        body: &'static str,
        signature: &'static str,
    }

    const fn get(
        target: &'static str,
        headers: &'static [(&'static str, &'static str)],
        signature: &'static str,
    ) -> Vector {
        Vector { target, method: "GET", headers, body: "", signature }
    }

    const fn post(
        target: &'static str,
        headers: &'static [(&'static str, &'static str)],
        body: &'static str,
        signature: &'static str,
    ) -> Vector {
        Vector { target, method: "POST", headers, body, signature }
    }

    fn signed(vector: &Vector, target: &str, paths: Paths) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-date", HeaderValue::from_static("20150830T123600Z"));
        for (name, value) in vector.headers {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let payload = payload_hash(vector.body.as_bytes());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let request = Signable {
            method: vector.method,
            path,
            paths,
            query,
            host: "example.amazonaws.com",
            headers: &headers,
            names: |_| true,
            payload: &payload,
        };
        let scope = Scope { time: "20150830T123600Z", region: "us-east-1", service: "service" };
        scope.authorization("AKIDEXAMPLE", KEY, &request)
    }

    /// Those of the published suite (`aws-signing-test-suite`, header form) whose paths are canonical.
    #[test]
    fn the_published_vectors_are_signed_as_published() {
        let unreserved = format!("/{UNRESERVED_TEXT}");
        let unreserved_query = format!("/?{UNRESERVED_TEXT}={UNRESERVED_TEXT}");
        let form = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
        let table = [
            get("/", &[], form),
            get(
                "/",
                &[("x-amz-security-token", TOKEN)],
                "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
            ),
            get(
                "/",
                &[("my-header1", "value2"), ("my-header1", "value2"), ("my-header1", "value1")],
                "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
            ),
            get(
                "/",
                &[
                    ("my-header1", "value4"),
                    ("my-header1", "value1"),
                    ("my-header1", "value3"),
                    ("my-header1", "value2"),
                ],
                "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
            ),
            get(
                "/",
                &[("my-header1", " value1"), ("my-header2", " \"a   b   c\" ")],
                "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
            ),
            get("/example", &[], "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5"),
            get("/example/", &[], "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84"),
            get("/example%20space/", &[], "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"),
            get("/%E1%88%B4", &[], "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
            get("/?Param1=value1", &[], "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"),
            get(
                "/?Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
                &[],
                "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac",
            ),
            get(
                "/?Param2=value2&Param1=value1",
                &[],
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            get("/?%E1%88%B4=bar", &[], "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"),
            post("/", &[], "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            post(
                "/",
                &[("my-header1", "value1")],
                "",
                "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
            ),
            post(
                "/",
                &[("my-header1", "VALUE1")],
                "",
                "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
            ),
            post(
                "/",
                &[(
                    "x-amz-security-token",
                    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==",
                )],
                "",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
            post("/?Param1=value1", &[], "", "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11"),
            post(
                "/",
                &[
                    ("content-type", "application/x-www-form-urlencoded"),
                    ("content-length", "13"),
                    ("x-amz-content-sha256", "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"),
                ],
                "Param1=value1",
                "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
            ),
            post(
                "/",
                &[
                    ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
                    ("content-length", "13"),
                    ("x-amz-content-sha256", "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"),
                ],
                "Param1=value1",
                "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422",
            ),
        ];
        for vector in &table {
            let authorization = signed(vector, vector.target, Paths::Decoded);
            assert!(authorization.ends_with(vector.signature), "{} {}", vector.method, vector.target);
        }
        let long = [
            (unreserved, "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"),
            (unreserved_query, "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"),
        ];
        for (target, signature) in &long {
            assert!(signed(&get("/", &[], ""), target, Paths::AsSent).ends_with(signature), "{target}");
        }
        let whole = signed(&table[0], "/", Paths::AsSent);
        assert_eq!(
            whole,
            format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders=host;x-amz-date, Signature={form}"
            )
        );
    }

    #[test]
    fn a_path_is_encoded_once_where_it_is_decoded_and_twice_where_it_is_not() {
        let path = |path, paths| {
            let headers = HeaderMap::new();
            let names = |_: &str| true;
            Signable { method: "GET", path, paths, query: "", host: "h", headers: &headers, names, payload: "" }
                .canonical_path()
        };
        let table = [
            ("/", "/", "/"),
            ("/a%20b/%25/c", "/a%20b/%25/c", "/a%2520b/%2525/c"),
            ("/a(b)@:c=d", "/a%28b%29%40%3Ac%3Dd", "/a%28b%29%40%3Ac%3Dd"),
            // As published for the API Gateway.
            (
                "/test/@connections/JBDvjfGEIAMCERw%3D",
                "/test/%40connections/JBDvjfGEIAMCERw%3D",
                "/test/%40connections/JBDvjfGEIAMCERw%253D",
            ),
        ];
        for (raw, decoded, as_sent) in table {
            assert_eq!((path(raw, Paths::Decoded), path(raw, Paths::AsSent)), (decoded.into(), as_sent.into()));
        }
    }

    #[test]
    fn a_query_has_one_form() {
        let table = [
            ("", ""),
            ("&&", ""),
            ("acl", "acl="),
            ("b=2&a=1&a=0&B=3", "B=3&a=0&a=1&b=2"),
            ("prefix=a+b/c%2fd&x=%zz", "prefix=a%20b%2Fc%2Fd&x=%25zz"),
            ("a=b=c", "a=b%3Dc"),
            ("list-type=2&continuation-token=1%2B2%3D%3D", "continuation-token=1%2B2%3D%3D&list-type=2"),
        ];
        for (raw, canonical) in table {
            assert_eq!(canonical_query(raw), canonical, "{raw}");
        }
    }
}

//! Rows about origins: what can't be reached, or is not what its name says, gets nothing.

use std::time::Duration;

use serde_json::json;

use super::{Row, Told, run, told};
use crate::actors::{Certificate, Origin, Sidecar};

pub(super) fn rows() -> Vec<Row> {
    let certified =
        |wrong, certificate| Row::new(wrong, "origin_certificate", "502 origin_certificate", showing(certificate));
    vec![
        certified("another name's certificate", Certificate::WrongName),
        certified("an expired certificate", Certificate::Expired),
        certified("a certificate of an unknown issuer", Certificate::UnknownIssuer),
        Row::new("no address", "origin_unresolved", "502 origin_unresolved", without_an_address()),
        Row::new("nobody listens", "origin_unreachable", "502 origin_unreachable", gone()),
        Row::new("silence", "origin_timeout", "504 origin_timeout", saying(Origin::https("api.example.com"), b"")),
        Row::new(
            "another protocol",
            "origin_protocol",
            "502 origin_protocol",
            saying(Origin::http("api.example.com"), b"SSH-2.0-OpenSSH_9.2\r\n"),
        ),
        Row::new(
            "it hangs up",
            "origin_protocol",
            "502 origin_protocol",
            saying(Origin::http("api.example.com"), b"H"),
        ),
    ]
}

async fn showing(certificate: Certificate) -> Told {
    let origin = Origin::https("api.example.com").certificate(certificate).start().await;
    let sidecar = Sidecar::permissive().in_front_of(&origin).start().await;
    let answer = sidecar.agent().post(&origin.url("/"), "data").await;
    told(sidecar, &origin, answer).await
}

/// The name exists nowhere (RFC 6761), and where the machine has no resolver, neither does any other.
async fn without_an_address() -> Told {
    let elsewhere = Origin::https("api.example.com").start().await;
    let sidecar = Sidecar::permissive()
        .in_front_of(&elsewhere)
        .set(json!({"destinations": {"nowhere": {"hosts": ["api.nowhere.invalid"]}}}))
        .allowing(json!([{"id": "all", "destination": "nowhere"}]))
        .start()
        .await;
    let answer = sidecar.agent().get("https://api.nowhere.invalid/").await;
    told(sidecar, &elsewhere, answer).await
}

async fn gone() -> Told {
    let elsewhere = Origin::https("other.example.com").start().await;
    let origin = Origin::https("api.example.com").start().await;
    let setup = Sidecar::permissive().in_front_of(&origin);
    let url = origin.url("/");
    drop(origin);
    let sidecar = setup.start().await;
    let answer = sidecar.agent().get(&url).await;
    told(sidecar, &elsewhere, answer).await
}

async fn saying(origin: crate::actors::origin::Setup, words: &'static [u8]) -> Told {
    let origin = origin.saying(words).start().await;
    let setup = Sidecar::permissive().in_front_of(&origin).connecting_within(Duration::from_millis(300));
    let sidecar = setup.start().await;
    let answer = sidecar.agent().get(&origin.url("/")).await;
    told(sidecar, &origin, answer).await
}

#[tokio::test]
async fn an_origin_that_is_gone_or_not_what_its_name_says_costs_the_call() {
    run(rows()).await;
}

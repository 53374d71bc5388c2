//! How fast a body without secrets is passed, beside looking for one word in the same bytes.
//!
//! `cargo bench --bench secrets`. Each figure is the median of several rounds on one core; the ratios are what to look at,
//! for they hold from one machine to another.

use std::{
    fmt::Write,
    hint::black_box,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, header};
use memchr::memmem;
use tollgate::secret::{
    Mode, Treatment,
    body::{self, Content, Inspected},
    detect,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZE: usize = 1 << 20;
const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(150);

fn main() {
    let begun = Instant::now();
    detect::prepare();
    println!("{:<44} {:>9.2} ms", "reading the rules, once", begun.elapsed().as_secs_f64() * 1e3);
    println!("a clean body of 1 MiB, median of {ROUNDS} rounds, beside memchr::memmem for one word");
    for (name, media, body) in [
        ("JSON: answers of an API", "application/json", json()),
        ("JSON: words with escapes", "application/json", escaped()),
        ("plain text", "text/plain", prose()),
        ("source code", "text/plain", source()),
        ("JSON: an image in Base64", "application/json", image()),
        ("hostile: words behind colons", "text/plain", behind_colons()),
        ("hostile: frames of keys", "text/plain", again("-----BEGIN RSA PRIVATE KEY-----")),
        ("hostile: names and values", "text/plain", again("token:\"abcdefghijklmnopqrstuvwxyz\",")),
        ("hostile: beginnings of tokens", "text/plain", again("ghp_")),
    ] {
        let content = content(media);
        let ours = rate(&body, || look(black_box(&body), content));
        let baseline = rate(&body, || assert_eq!(memmem::find(black_box(&body), b"-----BEGIN PGP"), None));
        println!("{name:<44} {ours:>9.0} MB/s   memmem {baseline:>6.0} MB/s   {:>5.1} x its time", baseline / ours);
    }
    let header =
        b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36";
    let per_byte = 1e3 / rate(header, || assert_eq!(detect::search(black_box(header)), None));
    println!("{:<44} {:>9.0} ns", "a header of 100 bytes", per_byte * header.len() as f64);
}

fn look(body: &[u8], content: Content) {
    let mut found = Vec::new();
    let inspected = body::inspect(body, content, &Treatment::default(), Mode::Redact, &mut found);
    assert_eq!(inspected, Inspected::Same, "{found:?}");
}

/// Megabytes in a second: the median over the rounds.
fn rate(bytes: &[u8], run: impl Fn()) -> f64 {
    let mut rates: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            let mut count = 0_u32;
            while begun.elapsed() < ROUND {
                run();
                count += 1;
            }
            bytes.len() as f64 * f64::from(count) / begun.elapsed().as_secs_f64() / 1e6
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[ROUNDS / 2]
}

fn content(media: &'static str) -> Content {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(media))]);
    Content::of(&headers).expect("it is looked into")
}

/// What an API answers: names, numbers, addresses, digests and identifiers.
fn json() -> Vec<u8> {
    let mut body = String::from("[");
    let mut number = 0_u64;
    while body.len() < SIZE {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let small = number >> 40;
        write!(
            body,
            r#"{{"id":{small},"sha":"{number:016x}{number:016x}{small:08x}","uuid":"{small:08x}-9d7c-7c3e-8b1a-{small:012x}","url":"https://api.example.com/repos/o/r/issues/{small}","title":"Nothing is found in the list of open orders","body":"When the customer changes the address of an order the list of open orders stays empty until the page is read again.","labels":["bug","orders","web"],"created_at":"2026-11-16T10:00:00Z","comments":{}}},"#,
            small % 90
        )
        .expect("a string can be written to");
    }
    body.truncate(SIZE);
    body.into_bytes()
}

fn escaped() -> Vec<u8> {
    let line =
        r#"fn main() {\n    println!(\"the list of \\\"open\\\" orders: {}\", orders.len());\n}\n\u00e9 is a letter\n"#;
    let mut body = String::from("{\"content\":\"");
    while body.len() < SIZE - 8 {
        body.push_str(line);
        body.push_str(
            "When the customer changes the address of an order, the list of open orders stays empty for a while. ",
        );
    }
    body.push_str("\"}");
    body.into_bytes()
}

fn prose() -> Vec<u8> {
    let text = "Nothing is forwarded without a permit, and only policy makes one. What we do not know, we refuse: undefined, \
                error, timeout, wrong type, unknown protocol, oversized body, unreachable broker. Facts and claims never mix.\n";
    text.bytes().cycle().take(SIZE).collect()
}

fn source() -> Vec<u8> {
    include_bytes!("../src/body.rs").iter().copied().cycle().take(SIZE).collect()
}

/// A run that is as long as it can be, with as many places where a value may begin.
fn behind_colons() -> Vec<u8> {
    let mut body = vec![b'a'; SIZE / 2];
    body.extend(again(":a").into_iter().take(SIZE / 2));
    body
}

fn again(text: &str) -> Vec<u8> {
    text.bytes().cycle().take(SIZE).collect()
}

fn image() -> Vec<u8> {
    let mut state = 1_u32;
    let bytes: Vec<u8> = (0..SIZE / 4 * 3 - 64)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_be_bytes()[0]
        })
        .collect();
    format!("{{\"image\":\"data:image/png;base64,{}\"}}", BASE64_STANDARD.encode(bytes)).into_bytes()
}

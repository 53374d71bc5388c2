//! Looking alone, without anything to carry: chunks as they come from TLS, several kinds of text.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tollgate::secret::scrub::{Needles, Scrubber};

use crate::origin;

pub fn measure(time: Duration) {
    let mut random = fastrand::Rng::with_seed(11);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(1 << 20).collect();
    let escapes = "{\"text\":\"\\u00e9l\\u00e8ve \\u4e2d\\u6587 \\/ caf\\u00e9\"},".repeat(20_000);
    let tokens = "ghp_0000 eyJhbGciOiJSUzI1NiJ9.e30 https://h.example.com/%67%68?q=%2F ".repeat(14_000);
    println!(
        "looking alone, MB/s on one thread, chunks of {} KiB\n\n{:<24}{:>12}{:>12}",
        CHUNK >> 10,
        "",
        "token",
        "JWT"
    );
    let token = format!("ghp_{}", "a1B2c3".repeat(6));
    let jwt = format!("eyJhbGciOiJSUzI1NiJ9.{}.{}", "eyJzdWIiOiJ4In0".repeat(20), "c2lnbmF0dXJl".repeat(40));
    for (name, text) in [
        ("JSON and base64", Bytes::from(origin::text())),
        ("noise", noise.into()),
        ("escapes throughout", escapes.into()),
        ("near misses throughout", tokens.into()),
    ] {
        let rates = [&token, &jwt].map(|secret| rate(&text, secret, time));
        println!("{name:<24}{:>12.0}{:>12.0}", rates[0], rates[1]);
    }
    println!();
}

fn rate(text: &Bytes, secret: &str, time: Duration) -> f64 {
    let needles = Arc::new(Needles::new(&[secret]).expect("it is long enough"));
    let mut scrubber = Scrubber::new(needles);
    let (begun, mut looked) = (Instant::now(), 0);
    while begun.elapsed() < time {
        for start in (0..text.len()).step_by(CHUNK) {
            let chunk = text.slice(start..text.len().min(start + CHUNK));
            looked += chunk.len();
            std::hint::black_box(scrubber.push(chunk));
        }
    }
    assert_eq!(scrubber.found(), 0, "there is nothing to find");
    looked as f64 / begun.elapsed().as_secs_f64() / 1e6
}

const CHUNK: usize = 16 * 1024;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use proptest::prelude::*;

use super::*;

const SECRET: &str = "ghp_CaNaRy/9+CaNaRy~0123456789";

fn needles(secrets: &[&str]) -> Arc<Needles> {
    Arc::new(Needles::new(secrets).expect("they are long enough"))
}

/// What an origin may make of a secret, each inside something else.
fn variants(secret: &str) -> Vec<String> {
    let every = |write: fn(char) -> String| secret.chars().map(write).collect::<String>();
    let special = |write: fn(char) -> String| {
        secret.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { write(c) }).collect::<String>()
    };
    let mut all = vec![
        secret.to_owned(),
        every(|c| format!("%{:02X}", u32::from(c))),
        every(|c| format!("%{:02x}", u32::from(c))),
        special(|c| format!("%{:02X}", u32::from(c))),
        special(|c| format!("%{:02x}", u32::from(c))),
        special(|c| format!("%25{:02X}", u32::from(c))),
        every(|c| format!("\\u{:04x}", u32::from(c))),
        every(|c| format!("\\u{:04X}", u32::from(c))),
        special(|c| format!("\\u{:04x}", u32::from(c))),
        special(|c| format!("&#x{:02X};", u32::from(c))),
        secret.replace('/', "\\/"),
        secret.replace('/', "\\\\\\/"),
        secret.replace('/', "%2F").replace('+', "%2B"),
    ];
    for before in ["", "u", "us", "user:"] {
        for behind in ["", "1", "12"] {
            let pair = format!("{before}{secret}{behind}");
            all.extend([STANDARD.encode(&pair), STANDARD_NO_PAD.encode(&pair)]);
            all.extend([URL_SAFE.encode(&pair), URL_SAFE_NO_PAD.encode(&pair)]);
            all.push(STANDARD.encode(&pair).replace('/', "\\/").replace('+', "\\u002B"));
        }
    }
    all
}

fn in_chunks(needles: &Arc<Needles>, text: &[u8], size: usize) -> (Vec<u8>, u64) {
    let mut scrubber = Scrubber::new(Arc::clone(needles));
    let mut out = Vec::new();
    for chunk in text.chunks(size.max(1)) {
        out.extend_from_slice(&scrubber.push(Bytes::copy_from_slice(chunk)));
    }
    out.extend_from_slice(&scrubber.finish());
    (out, scrubber.found())
}

#[test]
fn no_variant_passes_at_any_chunk_size() {
    let needles = needles(&[SECRET]);
    for variant in variants(SECRET) {
        let text = format!("{{\"before\":\"{variant}\",\"after\":1}}");
        let (whole, found) = in_chunks(&needles, text.as_bytes(), text.len());
        let shown = String::from_utf8(whole.clone()).expect("UTF-8");
        assert_eq!((found, shown.len()), (1, text.len()), "{variant}: {shown}");
        assert!(shown.starts_with("{\"before\":\"") && shown.ends_with("\",\"after\":1}"), "{shown}");
        assert!(shown.contains("REDACTED***"), "{shown}");
        for size in 1..text.len() {
            assert_eq!(in_chunks(&needles, text.as_bytes(), size), (whole.clone(), 1), "{variant} by {size}");
        }
        assert_eq!(needles.redacted(text.as_bytes()), Some((whole, 1)));
    }
}

#[test]
fn of_what_base64_holds_less_than_a_byte_is_left() {
    let needles = needles(&[SECRET]);
    for before in ["", "a", "ab"] {
        let encoded = STANDARD.encode(format!("{before}{SECRET}zzz"));
        let (redacted, _) = needles.redacted(encoded.as_bytes()).expect("it is found");
        let left = redacted.iter().zip(encoded.as_bytes()).filter(|(left, was)| left == was).count();
        assert!(left <= before.len() + 4 + 4, "{}", redacted.escape_ascii());
    }
}

#[test]
fn what_holds_no_secret_passes_at_once_and_uncopied() {
    let needles = needles(&[SECRET]);
    let mut scrubber = Scrubber::new(needles);
    for text in [
        "",
        "data: {\"a\":1}\n\n",
        "event: ping\ndata: ghp_other\n\n",
        "the quick brown fox, and so on. ",
        "%41%42.",
        "[1]",
    ] {
        let chunk = Bytes::from(text);
        let passed = scrubber.push(chunk.clone());
        assert_eq!((passed.as_ptr(), &passed), (chunk.as_ptr(), &chunk), "{text}");
    }
    assert!(scrubber.finish().is_empty() && scrubber.found() == 0);
}

#[test]
fn only_what_may_become_a_secret_is_held_back() {
    let mut scrubber = Scrubber::new(needles(&[SECRET]));
    assert_eq!(scrubber.push("data: ghp_CaN".into()), "data: ");
    assert_eq!(scrubber.push("ada\n\n".into()), "ghp_CaNada\n\n");
    assert_eq!(scrubber.push("data: gh".into()), "data: ");
    assert_eq!(scrubber.finish(), "gh");
}

#[test]
fn json_stays_json_whatever_stands_before_a_secret() {
    // Its first letter makes an escape of a backslash before it.
    for secret in ["nhp_CaNaRy", "u0041hp_CaNaRy", "ghp_CaNaRy", "/hp_CaNaRy", "\"hp_CaNaRy\""] {
        let needles = needles(&[secret]);
        for written in [
            serde_json::to_string(secret).expect("JSON"),
            format!("\"\\u{:04x}{}\"", u32::from(secret.as_bytes()[0]), &secret[1..].replace('"', "\\\"")),
        ] {
            for backslashes in 0..10 {
                let text = format!("{{\"k\":\"{}{}}}", "\\".repeat(backslashes), &written[1..]);
                let valid = serde_json::from_str::<serde_json::Value>(&text).is_ok();
                for size in 1..text.len() {
                    let (out, found) = in_chunks(&needles, text.as_bytes(), size);
                    assert_eq!((found, out.len()), (1, text.len()), "{text}");
                    let parsed = serde_json::from_slice::<serde_json::Value>(&out);
                    assert!(!valid || parsed.is_ok(), "{text} became {}", out.escape_ascii());
                }
            }
        }
    }
}

#[test]
fn a_long_run_of_backslashes_is_not_held_back_for_ever() {
    let mut scrubber = Scrubber::new(needles(&[SECRET]));
    let mut passed = 0;
    for _ in 0..1000 {
        passed += scrubber.push("\\".into()).len();
    }
    assert!(passed >= 1000 - RUN, "{passed}");
    passed += scrubber.push(Bytes::from(format!("{SECRET}.."))).len() + scrubber.finish().len();
    assert_eq!((passed, scrubber.found()), (1000 + SECRET.len() + 2, 1));
}

#[test]
fn several_secrets_are_found_where_they_overlap() {
    let needles = needles(&["abcdefgh", "abcdefghijkl", "ghijklmnop"]);
    for (text, out) in [
        ("<abcdefgh>", "<REDACTED>"),
        ("<abcdefghijkl>", "<REDACTED****>"),
        ("<abcdefghijk>", "<REDACTEDijk>"),
        ("<abcdefghijklmnop>", "<REDACTED********>"),
        ("abcdefghabcdefgh", "REDACTEDREDACTED"),
    ] {
        for size in 1..=text.len() {
            let (redacted, _) = in_chunks(&needles, text.as_bytes(), size);
            assert_eq!(String::from_utf8(redacted).expect("UTF-8"), out, "by {size}");
        }
    }
}

#[test]
fn a_secret_that_is_cut_short_by_the_end_is_overwritten_where_enough_is_left_to_tell() {
    let needles = needles(&[SECRET]);
    let encoded = STANDARD.encode(SECRET);
    let escaped = SECRET.replace('_', "\\u005f");
    for (whole, telling) in [(SECRET, 10), (&encoded, 14), (&escaped, 15)] {
        for length in 0..whole.len() {
            let text = format!("token: {}", &whole[..length]);
            let left = if length < telling { 0 } else { 1 };
            let redacted = needles.redacted(text.as_bytes());
            assert_eq!(redacted.is_some(), left == 1, "{text}");
            for size in 1..=text.len() {
                let (out, found) = in_chunks(&needles, text.as_bytes(), size);
                assert_eq!((found, out.len()), (left, text.len()), "{text} by {size}");
                assert_eq!(out, redacted.clone().map_or(text.clone().into_bytes(), |(redacted, _)| redacted));
            }
            if left == 1 {
                let stars = "*".repeat(length - 8);
                assert_eq!(redacted, Some((format!("token: REDACTED{stars}").into_bytes(), 1)));
            }
        }
    }
    // In the middle of a text it is none of ours.
    assert_eq!(needles.redacted(format!("{}...", &SECRET[..20]).as_bytes()), None);
}

#[test]
fn a_short_beginning_at_the_end_is_the_beginning_of_nothing() {
    let needles = needles(&["12345678", "a-long-secret-of-27-letters"]);
    for text in ["1234567", "a-long-s", "..a-long-", "MTIzNDU"] {
        assert_eq!(in_chunks(&needles, text.as_bytes(), 1), (text.as_bytes().to_vec(), 0), "{text}");
    }
}

/// Base64 in lines of this width.
fn in_lines(text: &str, width: usize, line_break: &str) -> String {
    let encoded = STANDARD.encode(text);
    let lines: Vec<&str> =
        encoded.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).expect("base64 is text")).collect();
    lines.join(line_break) + line_break
}

#[test]
fn base64_in_lines_is_found_at_every_offset_and_chunk_size() {
    let pair = STANDARD.encode(format!("user:{SECRET}"));
    let needles = needles(&[SECRET, pair.trim_end_matches('=')]);
    for line_break in ["\n", "\r\n", "\\n", "\\r\\n", "\\u000a", "%0D%0A", "\n  "] {
        for (width, secret) in [(76, SECRET), (64, SECRET), (76, &pair), (20, SECRET)] {
            for before in 0..90 {
                let plain = format!("{}{secret}\r\nHost: api.example.com\r\n", "x".repeat(before));
                let text = in_lines(&plain, width, line_break);
                let whole = in_chunks(&needles, text.as_bytes(), text.len());
                assert_eq!((whole.1, whole.0.len()), (1, text.len()), "{text}");
                // Up to a byte may be left at each end, in characters that its neighbours have a part in.
                let left = whole.0.iter().zip(text.bytes()).filter(|(out, was)| **out != *was).count();
                assert!(left + 8 > secret.len() * 4 / 3, "{before}: {}", whole.0.escape_ascii());
                let sizes = if before < 60 { [1, 2, 7] } else { [3, 5, 76] };
                for size in sizes {
                    assert_eq!(in_chunks(&needles, text.as_bytes(), size), whole, "{before} by {size}: {text}");
                }
            }
        }
    }
}

#[test]
fn line_breaks_without_end_are_not_held_back() {
    let mut scrubber = Scrubber::new(needles(&[SECRET]));
    let begun = &STANDARD.encode(SECRET)[..9];
    scrubber.push(Bytes::copy_from_slice(begun.as_bytes()));
    let passed: usize = (0..100).map(|_| scrubber.push("\n".into()).len()).sum();
    assert_eq!(passed, begun.len() + 100);
}

#[test]
fn letters_beyond_ascii_are_found_escaped() {
    let needles = needles(&["pässwörd-🦀!"]);
    for text in [
        "pässwörd-🦀!",
        "p\\u00e4ssw\\u00F6rd-\\ud83e\\udd80!",
        "p%C3%A4ssw%c3%b6rd-%F0%9F%A6%80%21",
        "p&#228;ssw&#xf6;rd-&#129408;!",
    ] {
        for size in 1..=text.len() {
            assert_eq!(in_chunks(&needles, text.as_bytes(), size).1, 1, "{text} by {size}");
        }
    }
}

#[test]
fn a_short_secret_is_not_looked_for() {
    assert!(Needles::new(&[]).is_none());
    assert!(Needles::new(&["", "1234567"]).is_none());
    let needles = needles(&["1234567", "12345678"]);
    assert!(!needles.is_in(b"1234567") && needles.is_in(b"x12345678"));
}

#[test]
fn nothing_shows_a_needle() {
    let needles = needles(&[SECRET]);
    let mut scrubber = Scrubber::new(Arc::clone(&needles));
    scrubber.push("ghp_CaNaRy".into());
    assert_eq!(format!("{needles:?} {scrubber:?}"), "[needles] Scrubber { found: 0, .. }");
}

proptest! {
    #[test]
    fn chunks_make_no_difference(
        noise in proptest::collection::vec("[a-z%\\\\\"/&+g_h0-9 ]{0,12}", 1..6),
        picks in proptest::collection::vec(any::<proptest::sample::Index>(), 1..6),
        cuts in proptest::collection::vec(1_usize..40, 1..40),
    ) {
        let needles = needles(&[SECRET]);
        let variants = variants(SECRET);
        let text: String = noise.iter().zip(&picks).map(|(noise, pick)| format!("{noise} {}", pick.get(&variants))).collect();
        let whole = in_chunks(&needles, text.as_bytes(), text.len());
        prop_assert!(whole.1 >= 1 && whole.0.len() == text.len());
        prop_assert!(!needles.is_in(&whole.0));
        let mut scrubber = Scrubber::new(Arc::clone(&needles));
        let (mut out, mut rest) = (Vec::new(), text.as_bytes());
        for cut in cuts.iter().cycle() {
            let (chunk, behind) = rest.split_at((*cut).min(rest.len()));
            out.extend_from_slice(&scrubber.push(Bytes::copy_from_slice(chunk)));
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        out.extend_from_slice(&scrubber.finish());
        prop_assert_eq!((out, scrubber.found()), whole);
    }

    #[test]
    fn any_bytes_pass_unchanged_without_a_secret(bytes in proptest::collection::vec(any::<u8>(), 0..400), size in 1_usize..50) {
        let needles = needles(&[SECRET]);
        prop_assert_eq!(in_chunks(&needles, &bytes, size), (bytes, 0));
    }
}

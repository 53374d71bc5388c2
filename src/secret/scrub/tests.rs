use std::sync::Arc;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
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
        every(|c| format!("\\x{:02x}", u32::from(c))),
        every(|c| format!("&#{};", u32::from(c))),
        every(|c| format!("&#x{:x};", u32::from(c))),
        every(|c| format!("&#x{:X};", u32::from(c))),
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
            let encoded = STANDARD.encode(&pair);
            all.push(encoded.replace('/', "\\/").replace('+', "\\u002B"));
        }
    }
    all
}

fn push(scrubber: &mut Scrubber, chunk: impl Into<Bytes>) -> Bytes {
    let [first, second] = scrubber.push(chunk.into());
    if second.is_empty() { first } else { [first, second].concat().into() }
}

fn in_chunks(needles: &Arc<Needles>, text: &[u8], size: usize) -> (Vec<u8>, u64) {
    let mut scrubber = Scrubber::new(Arc::clone(needles));
    let mut out = Vec::new();
    for chunk in text.chunks(size.max(1)) {
        out.extend_from_slice(&push(&mut scrubber, Bytes::copy_from_slice(chunk)));
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
    for text in
        ["", "data: {\"a\":1}\n\n", "event: ping\ndata: ghp_other\n\n", "the quick brown fox, and so on. ", "[1]\n"]
    {
        let chunk = Bytes::from(text);
        let passed = push(&mut scrubber, chunk.clone());
        assert_eq!((passed.as_ptr(), &passed), (chunk.as_ptr(), &chunk), "{text}");
    }
    assert!(scrubber.finish().is_empty() && scrubber.found() == 0);
}

#[test]
fn the_end_of_a_word_waits_for_more_or_for_a_pause() {
    let mut scrubber = Scrubber::new(needles(&[SECRET]));
    assert_eq!(push(&mut scrubber, "data: ghp_CaN"), "data: ");
    assert_eq!(push(&mut scrubber, "ada\n\n"), "ghp_CaNada\n\n");
    assert_eq!(push(&mut scrubber, "> a prompt: "), "> a prompt: ");
    assert_eq!(push(&mut scrubber, "yes/no?"), "");
    assert_eq!(scrubber.pause(), "yes/no?");
    assert_eq!(push(&mut scrubber, Bytes::from(&SECRET.as_bytes()[..20])), "");
    assert_eq!(scrubber.pause(), "REDACTED************", "and is overwritten where it tells a secret");
    assert_eq!(push(&mut scrubber, Bytes::from(&SECRET.as_bytes()[20..])), "");
    assert_eq!(scrubber.pause(), "**********");
    assert_eq!(push(&mut scrubber, " and so on\n"), " and so on\n");
    assert_eq!(scrubber.found(), 1);
}

/// What passes of these chunks, one after the other, with a pause behind each.
fn pieces(needles: &Arc<Needles>, chunks: &[&str], pauses: bool) -> (Vec<usize>, String) {
    let mut scrubber = Scrubber::new(Arc::clone(needles));
    let mut all = Vec::new();
    for chunk in chunks {
        all.push(push(&mut scrubber, Bytes::copy_from_slice(chunk.as_bytes())));
        if pauses {
            all.push(scrubber.pause());
        }
    }
    all.push(scrubber.finish());
    (all.iter().map(Bytes::len).collect(), String::from_utf8(all.concat()).expect("UTF-8"))
}

/// A guess that is right for so many characters, and as long as the secret.
fn guess(right: usize) -> String {
    format!("{}{}", &SECRET[..right], "#".repeat(SECRET.len() - right))
}

#[test]
fn a_guess_that_is_too_short_to_tell_changes_nothing_that_an_agent_can_see() {
    let needles = needles(&[SECRET]);
    let spelled: [fn(&str) -> String; 4] = [
        str::to_owned,
        |text| text.bytes().map(|byte| format!("%{byte:02X}")).collect(),
        |text| text.bytes().map(|byte| format!("\\u{byte:04x}")).collect(),
        |text| STANDARD.encode(text).trim_end_matches('=').to_owned(),
    ];
    for spell in spelled {
        for length in 1..9 {
            let right = spell(&SECRET[..length]);
            let wrong = spell(&"#".repeat(length));
            for (before, behind) in [("", "\n"), ("log: ", " \n"), ("a=", "&b=1 "), ("", ""), ("x\n", ".")] {
                for pauses in [false, true] {
                    let shown = |guess: &str| pieces(&needles, &[before, guess, behind, "next"], pauses);
                    let (sizes, text) = shown(&right);
                    assert_eq!(sizes, shown(&wrong).0, "{right}");
                    assert_eq!(text, format!("{before}{right}{behind}next"));
                }
            }
        }
    }
}

#[test]
fn how_far_a_guess_was_right_is_not_seen_once_it_tells() {
    let needles = needles(&[SECRET]);
    let word = format!("REDACTED{}", "*".repeat(SECRET.len() + 4 - 8));
    for right in 12..SECRET.len() {
        let text = format!("[\"{}tail\", 1]", guess(right));
        for size in 1..=text.len() {
            let (out, found) = in_chunks(&needles, text.as_bytes(), size);
            assert_eq!((String::from_utf8_lossy(&out).as_ref(), found), (&*format!("[\"{word}\", 1]"), 1), "{right}");
        }
    }
    for right in 0..12 {
        assert!(!needles.is_in(guess(right).as_bytes()), "{right}");
    }
}

#[test]
fn a_secret_that_comes_in_pieces_with_pauses_shows_too_little_to_tell_it() {
    let needles = needles(&[SECRET]);
    for first in 1..SECRET.len() {
        for second in first..SECRET.len() {
            let chunks = ["{\"k\":\"", &SECRET[..first], &SECRET[first..second], &SECRET[second..], "\"}"];
            let (_, shown) = pieces(&needles, &chunks, true);
            let kept = shown["{\"k\":\"".len()..].find(['R', '*']).expect("it was overwritten");
            assert!(kept < 12 && shown.len() == SECRET.len() + 8, "{shown}");
            assert!(shown.ends_with("*\"}") || shown.ends_with("REDACTED\"}"), "{shown}");
        }
    }
}

#[test]
fn what_is_kept_of_a_guess_changes_no_pieces_of_what_comes_behind_it() {
    let needles = needles(&[SECRET]);
    let behind = "word ".repeat(1000);
    let shown = |guess: &str| {
        let mut scrubber = Scrubber::new(Arc::clone(&needles));
        scrubber.push(Bytes::from(format!("log: {guess}")));
        scrubber.pause();
        scrubber.push(Bytes::from(behind.clone())).map(|piece| piece.len())
    };
    for right in 1..12 {
        assert_eq!(shown(&SECRET[..right]), shown(&format!("{}#", &SECRET[..right - 1])), "{right}");
    }
}

#[test]
fn a_word_that_goes_on_after_a_pause_is_looked_through_from_its_beginning() {
    // Its second letter begins a needle, too: the first one of its base64.
    let secret = "ovNy7myMkkAZpwqpuYai1hwxoSoTUpb6Bc4zKNUI";
    let escaped: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for word in [secret, &escaped] {
        for first in 1..8 {
            let (_, shown) =
                pieces(&needles(&[secret]), &["GET /x?a=1&key=", &word[..first], &word[first..], "\n\n"], true);
            assert!(shown.contains("***") && shown.len() == word.len() + 17, "{shown}");
        }
    }
}

#[test]
fn a_needle_inside_one_that_goes_on_otherwise_is_found_too() {
    let password = format!("github_pat_{}", "11ABCDEFG0abcdefghijklmnopqrstuvwxyz0123456789".repeat(2));
    let pair = STANDARD.encode(format!("x-access-token:{password}"));
    let needles = needles(&[&password, &pair]);
    let text = in_lines(&format!("x-access-token:{password}"), 76, "\n");
    let (shown, _) = needles.redacted(text.as_bytes()).expect("it is found");
    let left = shown.iter().filter(|byte| byte.is_ascii_alphanumeric()).count() - "REDACTED".len();
    assert!(left < 8, "{}", shown.escape_ascii());
    assert_eq!(shown.iter().filter(|byte| **byte == b'\n').count(), 3, "lines stay lines");
}

#[test]
fn past_what_tells_a_guess_in_lines_shows_no_more_either() {
    let needles = needles(&["x-access-token:ghs_CaNaRy0123456789abcdefghijkl"]);
    let encoded = STANDARD.encode("x-access-token:ghs_CaNaRy0123456789abcdefghijkl");
    for right in 28..40 {
        let shown = |next: char| {
            let text = format!("{} {next} x and more of that line\nnext", &encoded[..right]);
            let (shown, found) = needles.redacted(text.as_bytes()).expect("it tells");
            (String::from_utf8(shown).expect("UTF-8"), found)
        };
        let next = encoded.as_bytes()[right].into();
        assert_eq!(shown(next), shown(if next == 'A' { 'B' } else { 'A' }), "{right}");
    }
}

/// Where each of them were followed to the end of the word, this would take minutes.
#[test]
fn a_word_with_many_beginnings_is_read_once() {
    let needles = needles(&[SECRET]);
    let text: String = "ghp_CaNaRy/9+CaN".repeat(1 << 16);
    let (redacted, found) = needles.redacted(text.as_bytes()).expect("they tell");
    assert!(found == 1 && redacted.iter().skip(8).all(|byte| *byte == b'*'));
    let (out, found) = in_chunks(&needles, text.as_bytes(), 1 << 14);
    assert!(found == 1 && out.iter().all(|byte| b"REDACTED*".contains(byte)), "{found}");
}

#[test]
fn a_name_of_a_field_is_compared_without_case() {
    let needles = needles(&["AB_CDEF-GHIJ2345", "hunter2-hunter2"]);
    for (name, is_in) in [
        ("x-ab_cdef-ghij2345", true),
        ("ab_cdef-ghij", true),
        ("ab_cdef", false),
        ("x-hunter2-hunter2-y", true),
        ("content-type", false),
    ] {
        assert_eq!(needles.is_in_name(name.as_bytes()), is_in, "{name}");
    }
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
    let needles = needles(&[SECRET]);
    let mut scrubber = Scrubber::new(Arc::clone(&needles));
    let mut passed = 0;
    for _ in 0..1000 {
        passed += push(&mut scrubber, "\\").len();
    }
    assert!(passed >= 1000 - 4 * needles.reach, "{passed}");
    passed += push(&mut scrubber, Bytes::from(format!("{SECRET}.."))).len() + scrubber.finish().len();
    assert_eq!((passed, scrubber.found()), (1000 + SECRET.len() + 2, 1));
}

#[test]
fn several_secrets_are_found_where_they_overlap() {
    let needles = needles(&["abcdefgh", "abcdefghijkl", "ghijklmnop"]);
    for (text, out) in [
        ("<abcdefgh>", "<REDACTED>"),
        ("<abcdefghijkl>", "<REDACTED****>"),
        ("<abcdefghijk>", "<REDACTED***>"),
        ("<abcdefghijklmnop>", "<REDACTED********>"),
        ("abcdefghabcdefgh", "REDACTED********"),
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
    for (whole, telling) in [(SECRET, 12), (&encoded, 14), (&escaped, 17)] {
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
    let (redacted, _) = needles.redacted(format!("{}..., expired", &SECRET[..20]).as_bytes()).expect("it tells");
    assert_eq!(String::from_utf8_lossy(&redacted), "REDACTED************************");
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
                    // A line that ended has passed, with too little in it to tell.
                    let (out, found) = in_chunks(&needles, text.as_bytes(), size);
                    assert_eq!((found, out.len()), (1, text.len()), "{before} by {size}: {text}");
                    let both = out.iter().zip(&whole.0).zip(text.bytes());
                    let more = both.filter(|((out, whole), was)| **out == *was && *whole != was).count();
                    assert!(more < 24, "{before} by {size}: {}", out.escape_ascii());
                }
            }
        }
    }
}

#[test]
fn line_breaks_without_end_are_not_held_back() {
    let mut scrubber = Scrubber::new(needles(&[SECRET]));
    let begun = &STANDARD.encode(SECRET)[..9];
    push(&mut scrubber, Bytes::copy_from_slice(begun.as_bytes()));
    let passed: usize = (0..100).map(|_| push(&mut scrubber, "\n").len()).sum();
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
    push(&mut scrubber, "ghp_CaNaRy");
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
            out.extend_from_slice(&push(&mut scrubber, Bytes::copy_from_slice(chunk)));
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

#[test]
fn debug_shows_no_needle_and_nothing_that_is_held_back() {
    let needles = needles(&["canary-5ecret-canary"]);
    let mut scrubber = Scrubber::new(Arc::clone(&needles));
    push(&mut scrubber, "x canary-5ec");
    assert!(scrubber.holds());
    let shown = format!("{needles:?} {scrubber:?}");
    assert!(!shown.contains("canary") && !shown.contains("5ec"), "{shown}");
}

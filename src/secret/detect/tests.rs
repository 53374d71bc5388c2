use super::*;

/// Made at run time, so that no scanner of repositories takes a test for a leak.
fn made(prefix: &str, rest: &str, length: usize) -> String {
    let mut text = prefix.to_owned();
    text.extend(rest.chars().cycle().take(length));
    text
}

fn pat() -> String {
    made("ghp_", "aB3dE6gH9kL", 36)
}

#[test]
fn known_formats_are_told() {
    let table = [
        ("github_pat", made("ghp_", "aB3", 36)),
        ("github_pat", made("github_pat_", "aB3_", 82)),
        ("github_token", made("ghs_", "aB3", 36)),
        ("gitlab", made("glpat-", "aB3-_", 20)),
        ("aws_access_key", made("AKIA", "AB7", 16)),
        ("aws_access_key", made("ASIA", "AB7", 16)),
        ("anthropic", made("sk-ant-api03-", "aB3-_", 95)),
        ("openai", made("sk-proj-", "aB3-_", 100)),
        ("openai", made("sk-", "aB3", 48)),
        ("api_key", made("sk-", "0af", 32)),
        ("slack", made("xoxb-1234567890-", "aB3", 24)),
        ("stripe", made("sk_live_", "aB3", 24)),
        ("google_api_key", made("AIza", "aB3-_", 35)),
        ("google_oauth", made("ya29.", "aB3-_", 120)),
        ("npm", made("npm_", "aB3", 36)),
        ("pypi", made("pypi-AgEIcHlwaS5vcmc", "aB3-_", 100)),
        ("vault", made("hvs.", "aB3-_", 90)),
        ("huggingface", made("hf_", "aB", 34)),
        ("sendgrid", made("SG.aBcDeFgHiJkLmNoPqRsTuV.", "aB3", 43)),
        ("jwt", format!("{}.{}.{}", made("eyJ", "hbG", 20), made("eyJ", "zdW", 20), made("", "sIg-_", 43))),
        ("jwt", format!("{}.{}.", made("eyJ", "hbG", 20), made("eyJ", "zdW", 20))),
        ("jwt", format!("{}.a.b.c.d", made("eyJ", "hbG", 20))),
        ("pem", "-----BEGIN RSA PRIVATE KEY-----\nMIIE".to_owned()),
        ("telegram", made("123456789:AA", "aB3-_", 33)),
        ("slack_webhook", made("https://hooks.slack.com/services/T01234567/B01234567/", "aB3", 24)),
    ];
    for (kind, text) in &table {
        assert_eq!(find(text.as_bytes()), Some(*kind), "{text}");
        assert_eq!(find(format!("x={text}; y=1").as_bytes()), Some(*kind), "in other words: {text}");
    }
}

#[test]
fn harmless_text_is_left_alone() {
    let table = [
        "",
        "application/json; charset=utf-8",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
        "0190b6f6-9d7c-7c3e-8b1a-2f6d5c4b3a21",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "eyJpZCI6MTIzNDU2Nzg5MCwib2Zmc2V0IjoxMH0",
        "sk-learn-is-a-library-for-machine-learning-in-python",
        "ghp_short",
        "AKIA-is-a-prefix-of-identifiers",
        "AKIAlowercaseletters",
        "-----BEGIN CERTIFICATE-----",
        "npm_config_registry_and_other_settings_here",
        "hf_transfer_is_an_environment_setting_of_a_hub",
        "W/\"67ab43d0c1f2e3a4b5c6d7e8f9\"",
        "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
        "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==",
    ];
    for text in table {
        assert_eq!(find(text.as_bytes()), None, "{text}");
        assert_eq!(search(text.as_bytes()), None, "{text}");
        assert_eq!(finds(text.as_bytes(), Notation::Text), [], "{text}");
    }
}

#[test]
fn a_secret_is_found_beside_other_characters_of_words() {
    let pat = pat();
    for text in [format!("token-{pat}"), format!("{pat}-old"), format!("{pat}.example.com"), format!("/v1/{pat}/x")] {
        assert_eq!(find(text.as_bytes()), Some("github_pat"), "{text}");
    }
    assert_eq!(find(format!("x{pat}").as_bytes()), None);
    assert_eq!(find(made("ghp_", "aB3dE6gH9kL", 300).as_bytes()), None);
}

#[test]
fn what_documentation_shows_is_a_secret_in_heads_only() {
    let access_key = format!("AKIA{}", "IOSFODNN7EXAMPLE");
    for text in [access_key, made("ghp_", "x", 36), made("sk-proj-", "xX", 48)] {
        assert!(find(text.as_bytes()).is_some(), "{text}");
        assert_eq!(finds(text.as_bytes(), Notation::Text), [], "{text}");
    }
}

#[test]
fn secrets_are_found_under_escapes_and_encodings() {
    let pat = pat();
    let escaped: String = pat.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
    let percent: String = pat.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &pat);
    for (text, place) in [
        (format!("see {pat}."), pat.clone()),
        (format!(r#"{{"a":"\n{pat}\n"}}"#), pat.clone()),
        (format!(r#"{{"a":"{escaped}"}}"#), escaped.clone()),
        (format!(r#"{{"a":"{{\"b\":\"{}\"}}"}}"#, escaped.replace('\\', "\\\\")), escaped.replace('\\', "\\\\")),
        (format!("https://x.test/?u={percent}&b=1"), percent.clone()),
        (format!("Basic {base64}"), base64.clone()),
    ] {
        let found = finds(text.as_bytes(), Notation::Text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert_eq!((found[0].kind(), &text[found[0].range.clone()]), ("github_pat", place.as_str()), "{text}");
        assert_eq!(search(text.as_bytes()), Some("github_pat"), "{text}");
    }
    let form = format!("a=1+2&payload={}", percent.replace("%67", "g"));
    assert_eq!(finds(form.as_bytes(), Notation::Form).len(), 1);
}

#[test]
fn secrets_without_a_mark_are_told_by_their_names() {
    let hex = "9f2c41d07be8356a1c9d04f7a2be6183";
    let key = "kT8xZ1Lq9Zp0vB3nM5rY7wD2sF4gH6jK8aQ1eC0u";
    for (text, kind) in [
        (format!("DD_API_KEY={hex}"), Some("datadog")),
        (format!(r#"{{"datadog": {{"apiKey": "{hex}"}}}}"#), Some("datadog")),
        (format!("aws_secret_access_key = {key}"), Some("aws_secret_key")),
        (format!("api_key: \"{hex}\""), Some("generic_secret")),
        (format!("Authorization: Bearer {key}"), Some("bearer")),
        (format!("checksum = \"{hex}\""), None),
        (format!("next_page_token={key}"), None),
        (format!("\"id\": \"{hex}\""), None),
        ("token: 0190b6f6-9d7c-7c3e-8b1a-2f6d5c4b3a21".to_owned(), None),
        (hex.to_owned(), None),
    ] {
        let found = finds(text.as_bytes(), Notation::Text);
        assert_eq!(found.first().map(Find::kind), kind, "{text}");
    }
}

#[test]
fn the_body_of_a_private_key_is_found_with_any_line_breaks() {
    let line = made("MII", "EvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7", 61);
    for end in ["\n", "\r\n", "\\n", "\\\\n"] {
        let body = format!("{line}{end}{line}");
        let text = format!("a-----BEGIN PRIVATE KEY-----{end}{body}{end}-----END PRIVATE KEY-----{end}b");
        let found = finds(text.as_bytes(), Notation::Text);
        assert_eq!(found.len(), 1, "{text}");
        assert_eq!((found[0].kind(), &text[found[0].range.clone()]), ("pem", body.as_str()));
    }
    let shown = "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----";
    assert_eq!(finds(shown.as_bytes(), Notation::Text), []);
    let public = format!("-----BEGIN PUBLIC KEY-----\n{line}\n-----END PUBLIC KEY-----");
    assert_eq!(finds(public.as_bytes(), Notation::Text), []);
}

#[test]
fn finds_do_not_overlap_and_the_more_specific_kind_names_them() {
    let pat = pat();
    let text = format!("api_token={pat}&b={pat}");
    let found = finds(text.as_bytes(), Notation::Text);
    let kinds: Vec<_> = found.iter().map(Find::kind).collect();
    assert_eq!(kinds, ["github_pat", "github_pat"]);
    assert!(found[0].range.end <= found[1].range.start);
}

/// Where one of these were read again for each of its words, this would take minutes.
#[test]
fn a_long_text_is_read_once_whatever_it_is_made_of() {
    let again = |text: &str| text.bytes().cycle().take(1 << 20).collect::<Vec<u8>>();
    let head = |text: &str| [vec![b'a'; 1 << 19], again(text)].concat();
    for text in [
        head(":a"),
        again("-----BEGIN RSA PRIVATE KEY-----"),
        again("ghp_"),
        again("eyJhbGci."),
        again("://aaaaaaaaaaaaaaaa:@"),
        again("\\\\u0061%61:"),
        again(&format!("{}\n", "Q".repeat(60))),
    ] {
        assert_eq!(finds(&text, Notation::Text), [], "{}", String::from_utf8_lossy(&text[..80]));
    }
}

#[test]
fn telegram_segments_are_told_from_robots() {
    assert!(is_telegram_segment(made("bot123456789:", "aB3-_", 35).as_bytes()));
    for other in ["bot", "bots", "bot123456789", "bot:token", "bot123456789:short", "robot123456789:x"] {
        assert!(!is_telegram_segment(other.as_bytes()), "{other}");
    }
}

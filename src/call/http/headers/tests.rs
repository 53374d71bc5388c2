use super::*;

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let field = |&(name, value): &(&str, &str)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    fields.iter().map(field).collect()
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_head_that_frames_or_names_its_body_twice_is_refused() {
    let table: [(&[(&str, &str)], bool); 18] = [
        (&[], true),
        (&[("content-length", "10")], true),
        (&[("transfer-encoding", "chunked")], true),
        (&[("transfer-encoding", "Chunked")], true),
        (&[("content-length", "10"), ("transfer-encoding", "chunked")], false),
        (&[("content-length", "10"), ("content-length", "10")], false),
        (&[("content-length", "10"), ("content-length", "11")], false),
        (&[("content-length", "10, 10")], false),
        (&[("content-length", "+10")], false),
        (&[("content-length", "")], false),
        (&[("content-length", "99999999999999999999")], false),
        (&[("transfer-encoding", "gzip, chunked")], false),
        (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false),
        (&[("transfer-encoding", "xchunked")], false),
        (&[("content-type", "application/json")], true),
        (&[("content-type", "image/png"), ("content-type", "application/json")], false),
        (&[("content_length", "10")], false),
        (&[("transfer_encoding", "chunked")], false),
    ];
    for (fields, accepted) in table {
        assert_eq!(check(&headers(fields)).is_ok(), accepted, "{fields:?}");
    }
}

#[test]
fn a_field_that_overrides_or_disguises_is_refused() {
    let refused = [
        "X-HTTP-Method-Override",
        "x-method-override",
        "X-HTTP-Method",
        "x_http_method_override",
        "x-http_method-override",
        "x_forwarded_for",
        "mcp_method",
        "txn_token",
        "x_original_url",
        "content_type",
        "tollgate_task",
    ];
    for name in refused {
        assert!(check(&headers(&[(name, "DELETE")])).is_err(), "{name}");
    }
    assert!(check(&headers(&[("my_header", "x"), ("x-request-id", "1"), ("x-forwarded-for", "::1")])).is_ok());
}

#[test]
fn only_what_concerns_the_connection_is_stripped() {
    let mut fields = headers(&[
        ("connection", "keep-alive, X-Private , te"),
        ("keep-alive", "timeout=5"),
        ("x-private", "1"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic x"),
        ("te", "gzip;q=0.5, trailers"),
        ("trailer", "grpc-status"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABk"),
        ("expect", "100-continue"),
        ("content-type", "text/plain"),
        ("host", "a.test"),
    ]);
    strip_hop_by_hop(&mut fields).unwrap();
    assert_eq!(names(&fields), ["content-type", "host", "te", "trailer"]);
    assert_eq!(fields["te"], "trailers");
}

#[test]
fn an_upgrade_to_websocket_is_told_from_all_others() {
    let table = [
        ("websocket", "Upgrade", true),
        ("WebSocket", "keep-alive, upgrade", true),
        ("websocket", "keep-alive", false),
        ("h2c", "Upgrade, HTTP2-Settings", false),
        ("websocket, h2c", "Upgrade", false),
        ("h2c, websocket", "Upgrade", false),
    ];
    for (upgrade, connection, websocket) in table {
        let mut fields = headers(&[("upgrade", upgrade), ("connection", connection), ("http2-settings", "x")]);
        assert_eq!(upgrades_to_websocket(&fields), websocket, "{upgrade} {connection}");
        strip_hop_by_hop(&mut fields).unwrap();
        assert!(fields.is_empty());
    }
    let twice = headers(&[("upgrade", "websocket"), ("upgrade", "h2c"), ("connection", "upgrade")]);
    assert!(!upgrades_to_websocket(&twice));
}

#[test]
fn connection_must_not_name_what_has_to_arrive() {
    for name in [
        "host",
        "Content-Length",
        "content-type",
        "Authorization",
        "cookie",
        "traceparent",
        "tollgate-task",
        "mcp-method",
        "x-forwarded-for",
        "via",
        "sec-websocket-key",
        "a b",
        "x;y",
        "é",
    ] {
        let mut fields = headers(&[("connection", &format!("close, {name}"))]);
        assert!(strip_hop_by_hop(&mut fields).is_err(), "{name}");
    }
    let mut fields =
        headers(&[("connection", "close,, x-own"), ("connection", "x-other"), ("x-own", "1"), ("x-other", "1")]);
    strip_hop_by_hop(&mut fields).unwrap();
    assert!(fields.is_empty());
}

#[test]
fn identity_and_rewrites_are_stripped_and_the_rest_stays() {
    let mut fields = headers(&[
        ("forwarded", "for=1"),
        ("x-forwarded-for", "1"),
        ("x-forwarded-client-cert", "x"),
        ("x-real-ip", "1"),
        ("via", "1.1 x"),
        ("txn-token", "x"),
        ("workload-identity-token", "x"),
        ("tollgate-task", "x"),
        ("baggage", "a=b"),
        ("x-amzn-oidc-identity", "x"),
        ("x-amz-target", "Dynamo"),
        ("traceparent", "00-x"),
        ("accept", "*/*"),
    ]);
    strip_request(&mut fields).unwrap();
    assert_eq!(names(&fields), ["accept", "traceparent", "x-amz-target"]);
    let mut fields =
        headers(&[("x-original-url", "/admin"), ("x-rewrite-url", "/"), ("x-forwarded-host", "b"), ("x-y", "z")]);
    strip_request(&mut fields).unwrap();
    assert_eq!(names(&fields), ["x-y"]);
}

#[test]
fn a_twin_of_a_field_is_stripped_and_the_field_is_not() {
    let mut fields = headers(&[
        ("x-service-key", "1"),
        ("x_service_key", "2"),
        ("x-service_key", "3"),
        ("x.service.key", "4"),
        ("x-service-kez", "5"),
        ("x-service-key2", "6"),
        ("xservicekey", "7"),
    ]);
    strip_twins(&mut fields, &HeaderName::from_static("x-service-key"));
    assert_eq!(names(&fields), ["x-service-key", "x-service-key2", "x-service-kez", "xservicekey"]);
}

#[test]
fn trailers_bring_nothing_that_was_not_decided() {
    let mut fields = headers(&[
        ("grpc-status", "0"),
        ("x-amz-checksum-crc32", "x"),
        ("content-digest", "x"),
        ("repr-digest", "x"),
        ("digest", "x"),
        ("authorization", "Bearer x"),
        ("cookie", "a=b"),
        ("x-api-key", "x"),
        ("x-sent", "x"),
        ("x-http-method-override", "DELETE"),
        ("content-length", "1"),
        ("tollgate-task", "x"),
    ]);
    strip_request_trailers(&mut fields);
    assert_eq!(names(&fields), ["content-digest", "digest", "grpc-status", "repr-digest", "x-amz-checksum-crc32"]);
    let mut fields = headers(&[
        ("grpc-status", "0"),
        ("server-timing", "db;dur=1"),
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("content-length", "1"),
        ("set-cookie", "a=b"),
        ("alt-svc", "h3=\":443\""),
        ("tollgate-decision", "x"),
    ]);
    strip_response_trailers(&mut fields);
    assert_eq!(names(&fields), ["grpc-status", "server-timing"]);
}

#[test]
fn policy_sees_no_field_that_can_carry_a_secret() {
    let hidden = [
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
        "apikey",
        "x-amz-security-token",
        "private-token",
        "x-auth",
        "x-auth-user",
        "authentication",
        "x-hub-signature",
        "signature",
        "x-client-secret",
        "mcp-session-id",
        "x-goog-api-key",
        "dpop",
        "x-csrf-token",
        "x_api_key",
        "x-vault-token",
        "client-assertion",
        "x-accesstoken",
    ];
    for name in hidden {
        assert!(!may_be_seen(&name.to_ascii_lowercase()), "{name}");
    }
    for name in
        ["content-type", "accept", "user-agent", "host", "mcp-method", "x-request-id", "x-github-api-version", "range"]
    {
        assert!(may_be_seen(&name.to_ascii_lowercase()), "{name}");
    }
}

#[test]
fn grpc_is_told_from_grpc_web() {
    for (value, expected) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("Application/gRPC; x=y", true),
        ("application/grpc-web", false),
        ("application/grpc-web+proto", false),
        ("application/json", false),
        ("", false),
    ] {
        assert_eq!(is_grpc(&headers(&[("content-type", value)])), expected, "{value}");
    }
    assert!(!is_grpc(&HeaderMap::new()));
}

#[test]
fn a_websocket_is_known_by_its_upgrade() {
    let request = |method: &str, version, upgrade: &str| {
        let request = http::Request::builder().method(method).version(version);
        request.header("upgrade", upgrade).header("connection", "keep-alive, Upgrade").body(()).unwrap().into_parts().0
    };
    assert!(is_websocket(&request("GET", Version::HTTP_11, "websocket")));
    assert!(!is_websocket(&request("POST", Version::HTTP_11, "websocket")));
    assert!(!is_websocket(&request("GET", Version::HTTP_10, "websocket")));
    assert!(!is_websocket(&request("GET", Version::HTTP_11, "h2c")));
}

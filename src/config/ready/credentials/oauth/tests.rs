use std::path::Path;

use serde_json::json;

use super::*;
use crate::config::Config;

const STATIC: &str = "{kind: static, id: x}";
const SPIFFE: &str = "{kind: spiffe, socket: 'unix:///run/agent.sock'}";

fn parse(identity: &str, credential: &str) -> Result<oauth::Oauth, String> {
    let text = format!(
        "agent: {{name: a, identity: {identity}}}\ndestinations: {{d: {{hosts: [api.test], credential: x}}}}\ncredentials:\n  x: {credential}\n"
    );
    let config = Config::parse(&text, Path::new("/base"), "f", &|_| None).map_err(|problems| problems.to_string())?;
    match &config.credentials["x"].source {
        Source::Oauth(oauth) => Ok((**oauth).clone()),
        other => panic!("{other:?}"),
    }
}

fn file(name: &str) -> SecretPlace {
    SecretPlace::File(Path::new("/base").join(name))
}

#[test]
fn the_example_of_the_contract_is_an_exchange_of_the_agents_identity() {
    let oauth = parse(
        SPIFFE,
        r#"{kind: oauth_token_exchange, token_endpoint: "https://i.test/token",
            client: {id: tollgate, assertion: spiffe}, audience: "https://graph", scopes: [read]}"#,
    );
    let identity = Typed { shown: Assertion::Identity("https://i.test/token".into()), token_type: TokenType::Jwt };
    let grant = TokenExchange { subject: identity, actor: None, wants: TokenType::AccessToken };
    let endpoints = Endpoints::Written { token: "https://i.test/token".into(), revocation: None, issuer: None };
    let client = Client { id: "tollgate".into(), authentication: Authentication::Spiffe, audience: None };
    let expected = oauth::Oauth {
        grant: Grant::TokenExchange(grant),
        server: Server { endpoints, client },
        target: Target { scopes: vec!["read".into()], audience: Some("https://graph".into()), ..Target::default() },
        dpop: false,
    };
    assert_eq!(oauth, Ok(expected));
}

#[test]
fn every_key_comes_to_its_place() {
    let oauth = parse(
        STATIC,
        "{kind: oauth_token_exchange, issuer: 'https://i.test', revocable: false, dpop: true,
          client: {id: c, key: {file: c.pem}, key_id: k, audience: 'https://a.test'},
          subject: {token: {file: s}, type: id_token}, actor: {key: {file: a.pem}, subject: bot},
          requested_token_type: jwt, resources: ['https://r.test', 'urn:x:y'],
          authorization_details: [{type: t, actions: [read]}]}",
    )
    .unwrap();
    assert!(oauth.dpop);
    assert_eq!(oauth.server.endpoints, Endpoints::Discovered { issuer: "https://i.test".into(), revocable: false });
    assert_eq!(oauth.server.client.audience.as_deref(), Some("https://a.test"));
    let authentication = Authentication::PrivateKey { key: file("c.pem"), key_id: Some("k".into()) };
    assert_eq!(oauth.server.client.authentication, authentication);
    assert_eq!(oauth.target.resources, ["https://r.test", "urn:x:y"]);
    assert_eq!(oauth.target.details, [json!({"type": "t", "actions": ["read"]})]);
    let Grant::TokenExchange(exchange) = oauth.grant else { panic!("{:?}", oauth.grant) };
    assert_eq!(exchange.subject, Typed { shown: Assertion::At(file("s")), token_type: TokenType::IdToken });
    assert_eq!(exchange.wants, TokenType::Jwt);
    let (key, audience) = (file("a.pem"), "https://i.test".into());
    let signed = Signed { key, key_id: None, issuer: "c".into(), subject: "bot".into(), audience };
    let actor = Typed { shown: Assertion::Signed(Box::new(signed)), token_type: TokenType::Jwt };
    assert_eq!(exchange.actor, Some(actor));
}

#[test]
fn an_assertion_for_another_issuer_names_both() {
    let oauth = parse(
        STATIC,
        "{kind: id_jag, issuer: 'https://as.test', client: {id: c, secret: {file: s}, method: client_secret_post},
          subject: {token: {file: t}, type: id_token},
          identity_provider: {token_endpoint: 'https://idp.test/token', revocation_endpoint: 'https://idp.test/r',
            issuer: 'https://idp.test', client: {id: d, secret: {file: s}}}}",
    )
    .unwrap();
    assert_eq!(oauth.server.client.authentication, Authentication::Post(file("s")));
    let Grant::IdJag(jag) = oauth.grant else { panic!("{:?}", oauth.grant) };
    assert_eq!(jag.audience, "https://as.test");
    let endpoints = Endpoints::Written {
        token: "https://idp.test/token".into(),
        revocation: Some("https://idp.test/r".into()),
        issuer: Some("https://idp.test".into()),
    };
    assert_eq!((jag.provider.endpoints, jag.provider.client.id.as_str()), (endpoints, "d"));
}

/// A problem for each row, at its place.
#[test]
fn what_cannot_be_used_is_reported_at_its_place() {
    const CLIENT: &str = "{id: c, secret: {file: s}}";
    const TOKEN: &str = "{token: {file: s}, type: jwt}";
    let of = |kind: &str, more: &str| format!("{{kind: {kind}, {more}}}");
    let simple = |more: &str| {
        of("oauth_client_credentials", &format!("token_endpoint: 'https://i/t', client: {CLIENT}, {more}"))
    };
    let client =
        |client: &str| of("oauth_client_credentials", &format!("token_endpoint: 'https://i/t', client: {client}"));
    let exchange = |more: &str| {
        of("oauth_token_exchange", &format!("token_endpoint: 'https://i/t', client: {CLIENT}, audience: a, {more}"))
    };
    let shown = |subject: &str| exchange(&format!("subject: {subject}"));
    let issued = |kind: &str, more: &str| of(kind, &format!("issuer: 'https://i', client: {CLIENT}, {more}"));
    let provider = format!("subject: {TOKEN}, identity_provider: {{issuer: 'https://p', client: {CLIENT}}}");
    let table = [
        (simple("issuer: 'http://i.test'"), "issuer: expected https"),
        (simple("issuer: 'https://i.test?x'"), "issuer: expected a URL without a query"),
        (simple("revocable: true"), "revocable: is told by"),
        (simple("scopes: ['a b']"), "scopes[0]: not a scope"),
        (simple("audience: ''"), "audience: is empty"),
        (simple("resources: ['a:b', 'https://b#c']"), "resources[1]: not an absolute URI"),
        (simple("authorization_details: [{actions: [a]}]"), "authorization_details[0].type: is required"),
        (simple("dpop: true, as: {header: x}"), "as: a token that is bound"),
        (simple("subject: {}"), "subject: is not a key of this kind"),
        (simple("identity_provider: {}"), "identity_provider"),
        (simple("acess: 1"), "acess: "),
        (client("{id: c}"), "client.secret: is required"),
        (client("{secret: {file: s}}"), "client.id: is required"),
        (client("{id: c, secret: {file: s}, key: {file: k}}"), "client: has exactly one"),
        (client("{id: c, key: {file: k}, method: client_secret_post}"), "client.method: says how"),
        (client("{id: c, secret: {file: s}, key_id: k}"), "client.key_id: names a"),
        (client("{id: c, assertion: spiffe}"), "client.assertion: shows the agent's identity"),
        (client("{id: c, assertion: none}"), "client.assertion: "),
        (client("{id: c, key: inline}"), "client.key: "),
        (of("oauth_client_credentials", "issuer: 'https://i'"), "client: is required"),
        (of("oauth_client_credentials", &format!("client: {CLIENT}")), "token_endpoint: is required, or `issuer`"),
        (
            issued("oauth_client_credentials", "revocation_endpoint: 'https://i/r'"),
            "revocation_endpoint: needs `token_endpoint`",
        ),
        (exchange(""), "subject: shows the agent's identity"),
        (shown("{token: {file: s}}"), "subject.type: is required"),
        (shown("{token: {file: s}, type: jwt, audience: a}"), "subject.audience: a token that"),
        (shown("{token: {file: s}, type: jwt, key: {file: k}}"), "subject: `token` and `key`"),
        (shown("{key: {file: k}}"), "subject.subject: is required"),
        (shown("{token: {file: s}, type: jwt, issuer: i}"), "subject.issuer: stands in a token"),
        (exchange(&format!("subject: {TOKEN}, requested_token_type: refresh_token")), "requested_token_type"),
        (issued("oauth_token_exchange", &format!("subject: {TOKEN}")), "audience: is required, or `resources`"),
        (issued("oauth_jwt_bearer", &format!("assertion: {TOKEN}")), "assertion.type: an assertion is always"),
        (of("id_jag", &format!("token_endpoint: 'https://i/t', client: {CLIENT}, {provider}")), "issuer: is required"),
        (issued("id_jag", &format!("subject: {TOKEN}")), "identity_provider: is required"),
        (issued("id_jag", &format!("audience: a, {provider}")), "audience: the assertion is for"),
    ];
    let mut unexpected = Vec::new();
    for (credential, told) in table {
        let problems = parse(STATIC, &credential).expect_err(&credential);
        if !problems.starts_with("f:4: credentials.x.") || !problems.contains(told) || problems.lines().count() != 1 {
            unexpected.push(format!("{credential}\n  {problems}"));
        }
    }
    assert!(unexpected.is_empty(), "{}", unexpected.join("\n"));
}

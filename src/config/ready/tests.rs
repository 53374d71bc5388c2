use std::collections::BTreeMap;

use super::*;
use crate::{
    config::{HostPattern, Otlp, OtlpProtocol, Protocol, StaticTask, Tasks, document::LONGEST_FILE},
    credential::{
        Placement, SecretPlace, Source, exception::Exception, file::Register, oauth::authentication::Authentication,
    },
};

fn parse_with(text: &str, env: &[(&str, &str)]) -> Result<Config, String> {
    let env: BTreeMap<String, String> = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Config::parse(text, Path::new("/etc/tollgate"), "f", &|name| env.get(name).cloned()).map_err(|p| p.to_string())
}

fn problems(text: &str) -> String {
    parse_with(&format!("{AGENT}{text}"), &[]).err().unwrap_or_default()
}

const AGENT: &str = "agent: {identity: {kind: static, id: 'spiffe://example.org/ns/a/sa/triage'}}\n";

/// The example of the public contract, whole.
const CONTRACT: &str = r#"mode: enforce                  # enforce | shadow (decide and record, never refuse by policy; hard floor still holds)
profile: standard              # observe | standard | strict | locked: how deep control goes
agent:
  name: triage-bot
  identity: {kind: static, id: "spiffe://example.org/ns/a/sa/triage"}     # static | spiffe | kubernetes
listen:
  proxy: 127.0.0.1:15001       # explicit HTTP proxy: absolute-form and CONNECT
  transparent: 0.0.0.0:15002   # redirected connections
  dns: 127.0.0.1:15053         # stub resolver: only permitted names leave
  health: 0.0.0.0:15020        # /livez /readyz /startupz /metrics; read only
  admin: /run/tollgate/admin.sock
tls:
  authority: {dir: /run/tollgate/ca, trust_bundle: /etc/tollgate/trust/ca.pem}
  origin_roots: {system: true, files: []}
destinations:
  github:
    hosts: [api.github.com]    # exact or `*.suffix` on a label boundary
    ports: [443]
    reach: [public]            # address classes that the name may lead to
    addresses: []              # pins where the name leads, instead of resolving it; the one way to loopback
    protocol: http             # http | mcp | a2a | grpc | graphql | openai | anthropic | opaque
    tls: intercept             # intercept | passthrough
    zone: internet             # free text for policy: cluster, corp, partner, internet
    environment: prod
    classification: internal   # public | internal | confidential | restricted: what may be sent there
    credential: github-app
credentials:
  github-app: {kind: github_app, app_id: "1", installation_id: "2", private_key: {file: /k}, max_ttl: 15m}
  legacy: {kind: file, file: /l, as: bearer, owner: team-x, expires: 2027-01-31}
  db: {kind: vault, address: "https://bao:8200", auth: {jwt: {mount: jwt, role: agent}}, secret: database/creds/readonly, as: {basic: {user: username, password: password}}}
  graph: {kind: oauth_token_exchange, token_endpoint: "https://x", client: {id: tollgate, assertion: spiffe}, audience: "https://graph", scopes: [read]}
  s3: {kind: aws, role_arn: "arn:aws:iam::1:role/agent", region: eu-west-1, session_policy: {}}
policy:
  paths: [/etc/tollgate/policy]                    # *.rego, data.json, data.yaml
  bundles: [{url: "https://x/bundle.tar.gz", poll: 30s, verify: {keys: [{file: /k}], scope: agents}}]
  decision: tollgate/decision                      # the rule that is asked
  budget: 10ms
  cache: {entries: 10000, ttl: 5s}
tasks: {source: [txn_token, header, static], static: {purpose: triage, ttl: 1h}}
approvals: {hold: 50s, expires: 15m, notify: [{webhook: "https://x"}]}
audit: {file: /var/log/tollgate/audit.jsonl, durable: before_forward, decision_logs: {url: "https://x/logs"}}
telemetry: {otlp: {endpoint: "http://localhost:4318", protocol: http}}   # http (protobuf) | grpc
state: {kind: memory}          # memory | redis {url: redis://…}
limits: {connections: 1024, header_bytes: 64KiB, inspect_bytes: 1MiB, inspect_total: 32MiB, json_depth: 64, sniff: 250ms}
"#;

#[test]
fn the_example_of_the_contract_fails_only_on_what_is_not_available_yet() {
    insta::assert_snapshot!(parse_with(CONTRACT, &[]).unwrap_err(), @r"
    f:35: policy.bundles: fetching bundles is not available in this version
    f:39: tasks.source[0]: txn_token is not available in this version
    f:40: approvals: approval by people is not available in this version
    f:41: audit.decision_logs: sending decision logs is not available in this version
    ");
}

#[test]
fn the_example_of_the_contract_without_that_loads() {
    let left_out = ["  bundles:", "approvals:"];
    let kept = CONTRACT.lines().filter(|line| !left_out.iter().any(|start| line.starts_with(start)));
    let text = kept
        .map(|line| {
            line.replace("[txn_token, header, static]", "[header, static]")
                .replace(", decision_logs: {url: \"https://x/logs\"}", "")
                + "\n"
        })
        .collect::<String>();
    let config = parse_with(&text, &[]).unwrap();
    assert_eq!(config.agent.name, "triage-bot");
    assert_eq!(config.tasks.fixed, Some(StaticTask::new("triage", Duration::from_secs(3600))));
    assert_eq!(config.audit.durable, Durability::BeforeForward);
    assert_eq!(config.limits.inspect_total, 32 << 20);
    let github = config.upstreams.find("api.github.com", 443).unwrap();
    assert_eq!(github.environment.as_ref(), "prod");
    assert_eq!(github.credential.as_ref().unwrap().name.as_ref(), "github-app");
    let kinds: Vec<_> = config.credentials.values().map(|declaration| declaration.kind()).collect();
    assert_eq!(kinds, ["vault", "github_app", "oauth_token_exchange", "file", "aws"]);
}

#[test]
fn everything_but_the_identity_has_a_default() {
    let config = parse_with(AGENT, &[("TOLLGATE_POD_NAME", "triage-0")]).unwrap();
    assert_eq!((config.mode, config.profile), (Mode::Enforce, Profile::Standard));
    assert_eq!((config.agent.name.as_str(), config.agent.pod.as_deref()), ("triage", Some("triage-0")));
    assert_eq!(config.listen, Listen::default());
    assert!(config.tls.system_roots);
    assert_eq!(
        (config.policy.decision.as_str(), config.policy.budget),
        ("tollgate/decision", Duration::from_millis(10))
    );
    assert_eq!((config.policy.cache_entries, config.policy.cache_ttl), (10_000, Duration::from_secs(5)));
    assert_eq!((config.tasks, config.telemetry.otlp), (Tasks::default(), None));
    assert_eq!(config.audit, Audit { file: None, durable: Durability::Buffered, rotate: None });
    let expected = Limits {
        connections: 1024,
        header_bytes: 65_536,
        inspect_bytes: 1 << 20,
        inspect_total: 32 << 20,
        json_depth: 64,
        sniff: Duration::from_millis(250),
        connect: Duration::from_secs(10),
        drain: Duration::from_secs(10),
    };
    assert_eq!(config.limits, expected);
}

#[test]
fn the_pods_labels_come_from_the_injector() {
    let labels = |text: &str| parse_with(AGENT, &[("TOLLGATE_POD_LABELS", text)]).map(|config| config.agent.labels);
    assert_eq!(labels(r#"{"app":"triage"}"#).unwrap()["app"], "triage");
    assert!(labels("").unwrap().is_empty());
    for wrong in ["app=triage", "[]", r#"{"app":1}"#] {
        assert!(labels(wrong).unwrap_err().to_string().contains("TOLLGATE_POD_LABELS"), "{wrong}");
    }
}

#[test]
fn a_destination_is_made_ready() {
    let text = format!(
        "{AGENT}destinations:\n  a:\n    hosts: [Bücher.example, '*.svc.cluster.local', '10.1.2.3']\n    \
         ports: [80, 8080]\n    reach: [private]\n    addresses: [127.0.0.1, '::1']\n    protocol: opaque\n    \
         tls: passthrough\n    zone: cluster\n"
    );
    let config = parse_with(&text, &[]).unwrap();
    let upstream = config.upstreams.find("x.svc.cluster.local", 8080).unwrap();
    let hosts = [
        HostPattern::Exact("xn--bcher-kva.example".into()),
        HostPattern::Suffix(".svc.cluster.local".into()),
        HostPattern::Exact("10.1.2.3".into()),
    ];
    assert_eq!(upstream.hosts, hosts);
    assert_eq!((upstream.reach_public, upstream.reach_private), (false, true));
    assert_eq!((upstream.protocol, upstream.zone.as_ref()), (Protocol::Opaque, "cluster"));
    assert_eq!(upstream.addresses.len(), 2);
    assert!(config.upstreams.find("svc.cluster.local", 80).is_none());
    assert!(config.upstreams.find("10.1.2.3", 443).is_none());
}

#[test]
fn what_is_done_with_secrets_is_chosen_by_kinds_that_are_known() {
    let chosen = "secrets: {mode: redact, kinds: {github_pat: refuse}, bodies: true}";
    let config = parse_with(&format!("{AGENT}destinations: {{a: {{hosts: [a.example], {chosen}}}}}"), &[]).unwrap();
    let treatment = &config.upstreams.find("a.example", 443).expect("it is there").secrets;
    assert_eq!(treatment.in_head("github_pat"), crate::secret::Mode::Refuse);
    assert_eq!((treatment.in_head("slack"), treatment.bodies), (crate::secret::Mode::Redact, true));

    let wrong =
        "destinations: {a: {hosts: [a.example], tls: passthrough, secrets: {kinds: {github: refuse}, bodies: true}}}";
    let found = parse_with(&format!("{AGENT}{wrong}"), &[]).unwrap_err();
    assert!(found.contains("secrets.kinds.github: is no kind"), "{found}");
    assert!(found.contains("secrets.bodies: "), "{found}");
}

#[test]
fn credentials_are_made_ready() {
    let text = format!(
        "{AGENT}credentials:\n  legacy: {{kind: file, file: secrets/legacy, as: {{header: X-Api-Key}}, owner: team-x, \
         expires: 2027-01-31}}\n  api:\n    kind: oauth_client_credentials\n    token_endpoint: https://issuer/token\n    \
         client: {{id: tollgate, secret: {{env: CLIENT_SECRET}}}}\n    scopes: [read]\n    max_ttl: 5m\n"
    );
    let config = parse_with(&text, &[("CLIENT_SECRET", "s3cr3t-value")]).unwrap();
    let legacy = &config.credentials["legacy"];
    assert_eq!(legacy.placement, Placement::Header(http::HeaderName::from_static("x-api-key")));
    let Source::File(Register { file, exception: Exception { owner, expires } }) = &legacy.source else {
        panic!("{legacy:?}")
    };
    assert_eq!((file.as_path(), owner.as_str()), (Path::new("/etc/tollgate/secrets/legacy"), "team-x"));
    assert_eq!(*expires, Some(std::time::UNIX_EPOCH + Duration::from_secs(1_801_440_000)));
    let api = &config.credentials["api"];
    assert_eq!((api.placement.clone(), api.max_ttl), (Placement::Bearer, Duration::from_secs(300)));
    let Source::Oauth(oauth) = &api.source else { panic!("{api:?}") };
    let Authentication::Basic(SecretPlace::Value(secret)) = &oauth.server.client.authentication else {
        panic!("{api:?}")
    };
    assert_eq!(secret.0.as_str(), "s3cr3t-value");
    assert_eq!(config.environment_secrets, std::slice::from_ref(secret));
    assert!(!format!("{config:?}").contains("s3cr3t"));
}

#[test]
fn everything_that_is_wrong_is_reported_at_once() {
    let text = "\
mode: enforced
agent: {name: '', identity: {kind: spiffe}}
listen: {proxy: '127.0.0.1:1', health: '0.0.0.0:1', admin: /x, transparent: nowhere}
destinations:
  github:
    hosts: [api.github.com, 'http://x', '*.com', 5]
    prots: [443]
    ports: []
    credential: missing
  other:
    hosts: [API.github.com.]
    ports: [443, 0]
    reach: []
    protocol: grpc
  pinned:
    hosts: [metadata, 169.254.169.254, 127.0.0.1]
    addresses: [169.254.169.254, 0.0.0.0, 224.0.0.1, 'fe80::1', 'fd00:ec2::254']
  third:
    hosts: [api.github.com]
    protocol: opaque
    credential: legacy
  bytes: {hosts: [b.example], tls: passthrough, credential: legacy}
credentials:
  legacy: {kind: file, as: {header: Host}, expries: 2027-01-31}
  inline:
    kind: oauth_client_credentials
    token_endpoint: http://issuer/token
    client: {id: x, secret: hunter2}
    scopes: ['a b']
  nameless: {file: /x}
  strange: {kind: magic}
policy: {budget: 10, decision: 'data.tollgate', cache: {ttl: 0s}}
tasks: {source: [static, header], max_ttl: 0s}
audit: {durable: buffered}
limits: {connections: 0, header_bytes: 1KiB, inspect_bytes: 64MiB, json_depth: 1000}
";
    let found = parse_with(text, &[]).unwrap_err();
    assert!(!found.contains("hunter2"));
    insta::assert_snapshot!(found, @r#"
    f:1: mode: unknown value `enforced`, expected `enforce` or `shadow`
    f:2: agent.identity.socket: is required, here or in SPIFFE_ENDPOINT_SOCKET: unix:///run/spire/agent.sock
    f:2: agent.name: is empty
    f:3: listen.transparent: expected an address and a port such as `127.0.0.1:15001`
    f:3: listen.health: overlaps with the address of listen.proxy
    f:6: destinations.github.hosts[3]: expected a string, found integer `5`
    f:6: destinations.github.hosts[1]: not a host; give a name or an address alone, without scheme, port or path
    f:6: destinations.github.hosts[2]: a wildcard needs two labels or more behind it, as in `*.example.com`
    f:7: destinations.github.prots: unknown key; did you mean `ports`?
    f:8: destinations.github.ports: is empty; name at least one port
    f:9: destinations.github.credential: there is no credential "missing" under credentials
    f:12: destinations.other.ports[1]: port 0 can't be reached
    f:13: destinations.other.reach: is empty, and no addresses are given, so nothing can be reached
    f:14: destinations.other.protocol: grpc is not available in this version
    f:16: destinations.pinned.hosts[0]: a metadata service is never dialled
    f:16: destinations.pinned.hosts[1]: a metadata address is never dialled
    f:17: destinations.pinned.addresses[0]: a metadata address is never dialled
    f:17: destinations.pinned.addresses[1]: a reserved address is never dialled
    f:17: destinations.pinned.addresses[2]: a reserved address is never dialled
    f:17: destinations.pinned.addresses[3]: a link-local address is never dialled
    f:17: destinations.pinned.addresses[4]: a metadata address is never dialled
    f:19: destinations.third.hosts[0]: destination other claims this host at port 443 already
    f:20: destinations.third.protocol: opaque needs tls: passthrough
    f:22: destinations.bytes.tls: a destination with a credential needs tls: intercept
    f:24: credentials.legacy.expries: unknown key; did you mean `expires`?
    f:24: credentials.legacy.file: is required
    f:24: credentials.legacy.owner: is required
    f:24: credentials.legacy.as.header: this header belongs to the connection, not to a credential
    f:27: credentials.inline.token_endpoint: expected https; http only to a loopback address such as 127.0.0.1
    f:28: credentials.inline.client.secret: expected `{file: PATH}` or `{env: NAME}`; a secret itself never stands in the configuration
    f:29: credentials.inline.scopes[0]: not a scope (RFC 6749 section 3.3)
    f:30: credentials.nameless.kind: expected the name of a kind: file, vault, oauth_client_credentials, oauth_token_exchange, oauth_jwt_bearer, id_jag, aws, gcp, azure, github_app, kubernetes, registry_token, spiffe_jwt, spiffe_x509 or mtls
    f:31: credentials.strange.kind: unknown kind; expected one of file, vault, oauth_client_credentials, oauth_token_exchange, oauth_jwt_bearer, id_jag, aws, gcp, azure, github_app, kubernetes, registry_token, spiffe_jwt, spiffe_x509 or mtls
    f:32: policy.budget: expected a duration such as `10ms`, `30s`, `15m` or `1h`
    f:32: policy.decision: expected the path of a rule below `data`, such as `tollgate/decision`
    f:32: policy.cache.ttl: expected more than 0
    f:33: tasks.source[0]: static holds for every call, so it stands last
    f:33: tasks.source: names static, but there is no tasks.static
    f:33: tasks.max_ttl: expected more than 0
    f:35: limits.inspect_bytes: larger than limits.inspect_total
    f:35: limits.connections: expected a number from 1 to 1048576
    f:35: limits.header_bytes: expected from 8KiB to 16MiB
    f:35: limits.json_depth: expected a number from 1 to 128
    "#);
}

#[test]
fn profiles_and_durability_agree() {
    for (text, expected) in [
        ("profile: strict\naudit: {file: a.jsonl}\n", ""),
        ("profile: locked\n", "f:1: audit.file: is required where records are durable before a call is forwarded"),
        (
            "profile: strict\naudit: {file: a, durable: buffered}\n",
            "f:3: audit.durable: the profiles strict and locked need before_forward",
        ),
        (
            "audit: {durable: before_forward}\n",
            "f:2: audit.file: is required where records are durable before a call is forwarded",
        ),
        (
            "mode: shadow\nprofile: strict\naudit: {file: a}\n",
            "f:2: mode: shadow forwards what policy denies, which the profiles strict and locked rule out",
        ),
        ("mode: shadow\nprofile: observe\n", ""),
    ] {
        assert_eq!(problems(text), expected, "{text}");
    }
}

#[test]
fn a_problem_that_follows_from_another_is_not_reported() {
    // Credentials that do not fit are not missing as well.
    let text = "destinations:\n  a: {hosts: [a.example], credential: x}\n  b: {hosts: [b.example], credential: y}\n\
                credentials:\n  x: 5\n  y: {kind: mtls}\n";
    insta::assert_snapshot!(problems(text), @r"
    f:6: credentials.x: expected a mapping of keys, found integer `5`
    f:7: credentials.y.certificate: is required: {file: PATH} or {env: NAME}
    f:7: credentials.y.key: is required: {file: PATH} or {env: NAME}
    f:7: credentials.y.owner: is required
    ");
    assert_eq!(
        problems("destinations: {a: {hosts: 5}}\n"),
        "f:2: destinations.a.hosts: expected a list, found integer `5`"
    );
    assert_eq!(problems("credentials: 5\n"), "f:2: credentials: expected a mapping of keys, found integer `5`");
}

#[test]
fn issuers_are_asked_over_https_or_on_loopback() {
    for (url, good) in [
        ("https://issuer.example/token", true),
        ("http://127.0.0.1:8080/token", true),
        ("http://[::1]:8080/token", true),
        ("http://localhost/token", false),
        ("http://issuer.example/token", false),
        ("https://user:pass@issuer.example/token", false),
        ("https://issuer.example/token#x", false),
        ("issuer.example/token", false),
        ("ftp://issuer.example", false),
        ("not a url", false),
    ] {
        let text = format!(
            "credentials: {{x: {{kind: oauth_client_credentials, token_endpoint: '{url}', client: {{id: x, secret: {{file: s}}}}}}}}\n"
        );
        let found = problems(&text);
        assert_eq!(found.is_empty(), good, "{url}: {found}");
        assert!(!found.contains("pass"), "{found}");
    }
}

#[test]
fn only_what_is_minted_can_be_of_one_call() {
    let vault = "kind: vault, address: 'https://bao:8200', auth: {jwt: {role: agent}}";
    let kubernetes = "kind: kubernetes, audience: a, token: {file: t}";
    for (credential, good) in [
        ("kind: oauth_client_credentials, token_endpoint: 'https://x', client: {id: x, secret: {file: s}}", true),
        ("kind: github_app, app_id: '1', installation_id: '2', private_key: {file: k}", true),
        (&*format!("{vault}, secret: database/creds/x, field: password"), true),
        (&*format!("{vault}, secret: kv/data/x, field: token"), false),
        (&*format!("{kubernetes}, server: 'https://k', service_account: {{namespace: a, name: r}}"), true),
        (kubernetes, false),
        ("kind: file, file: f, owner: team-x", false),
        ("kind: mtls, certificate: {file: c}, key: {file: k}, owner: team-x", false),
        ("kind: spiffe_jwt, audience: a", false),
        ("kind: spiffe_x509", false),
    ] {
        let problem = if good {
            ""
        } else {
            "f:2: credentials.x.per_call: nothing is minted for this credential, so there is nothing that a call could \
             have alone"
        };
        let found = problems(&format!("credentials: {{x: {{{credential}, per_call: true}}}}\n"));
        assert_eq!(found.lines().next().unwrap_or_default(), problem, "{credential}");
        assert_eq!(found.is_empty(), good, "{credential}");
    }
    let written = "credentials: {x: {kind: github_app, app_id: '1', installation_id: '2', private_key: {file: k}, \
                   per_call: 5}}\n";
    assert_eq!(problems(written), "f:2: credentials.x.per_call: expected true or false, found integer `5`");
    let config = parse_with(&format!("{AGENT}{}", written.replace('5', "true")), &[]).unwrap();
    assert!(config.credentials["x"].per_call);
}

#[test]
fn the_file_names_the_endpoint_and_the_environment_the_rest() {
    let file = format!("{AGENT}telemetry: {{otlp: {{endpoint: 'http://collector:4318/'}}}}\n");
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://elsewhere:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20abcdef, x-a=1"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=ignored,deployment.environment=prod%20eu"),
        ("OTEL_SERVICE_NAME", "triage"),
    ];
    let otlp = parse_with(&file, &env).unwrap().telemetry.otlp.unwrap();
    assert!(!format!("{otlp:?}").contains("abcdef"));
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let expected = Otlp {
        endpoint: "http://collector:4318".into(),
        protocol: OtlpProtocol::Http,
        headers: vec![pair("authorization", "Bearer abcdef"), pair("x-a", "1")],
        resource: vec![pair("service.name", "triage"), pair("deployment.environment", "prod eu")],
    };
    assert_eq!(otlp, expected);
}

#[test]
fn the_environment_alone_is_enough_for_telemetry() {
    let endpoint = |env: &[(&str, &str)]| {
        parse_with(AGENT, env).map(|config| config.telemetry.otlp.map(|otlp| (otlp.endpoint, otlp.protocol)))
    };
    let expected = |url: &str, protocol| Ok(Some((url.to_owned(), protocol)));
    assert_eq!(endpoint(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), Ok(None));
    assert_eq!(
        endpoint(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")]),
        expected("http://c:4318", OtlpProtocol::Http)
    );
    assert_eq!(
        endpoint(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318/x/v1/traces")]),
        expected("http://c:4318/x", OtlpProtocol::Http)
    );
    assert_eq!(
        endpoint(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]),
        expected("http://c:4317", OtlpProtocol::Grpc)
    );
    assert_eq!(endpoint(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"), ("OTEL_SDK_DISABLED", "TRUE")]), Ok(None));
}

#[test]
fn a_bad_variable_is_reported_without_its_value() {
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "hunter2"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "hunter2"),
        ("OTEL_RESOURCE_ATTRIBUTES", "hunter2"),
    ];
    let found = parse_with(AGENT, &env).unwrap_err();
    assert!(!found.contains("hunter2"));
    insta::assert_snapshot!(found, @r"
    environment: OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf or grpc
    environment: OTEL_EXPORTER_OTLP_ENDPOINT: expected a URL such as http://localhost:4318, without user information, query and fragment
    environment: OTEL_EXPORTER_OTLP_HEADERS: expected headers as name=value,name=value, percent-encoded
    environment: OTEL_RESOURCE_ATTRIBUTES: expected attributes as key=value,key=value, percent-encoded
    ");
}

#[test]
fn an_expanded_value_is_never_repeated() {
    let env = [("TOKEN", "hunter2-hunter2")];
    let text = format!(
        "{AGENT}destinations: {{a: {{hosts: ['${{TOKEN}}@x'], credential: '${{TOKEN}}', tls: '${{TOKEN}}'}}}}\n"
    );
    let found = parse_with(&text, &env).unwrap_err();
    assert!(!found.contains("hunter2"), "{found}");
    insta::assert_snapshot!(found, @r#"
    f:2: destinations.a.tls: unknown value `${TOKEN}`, expected `intercept` or `passthrough`
    f:2: destinations.a.hosts[0]: not a host; give a name or an address alone, without scheme, port or path
    f:2: destinations.a.credential: there is no credential "${TOKEN}" under credentials
    "#);
}

#[test]
fn a_file_that_is_not_there_or_no_text_is_one_problem() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tollgate.yaml");
    let load = || Config::load(&path, &|_| None).map(|_| ()).unwrap_err().to_string();
    assert!(load().contains("can't be read: No such file"), "{}", load());
    std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    assert!(load().contains("can't be read: "), "{}", load());
    std::fs::write(&path, " ".repeat(LONGEST_FILE + 1)).unwrap();
    assert!(load().ends_with("larger than 1 MiB"), "{}", load());
}

#[test]
fn no_more_than_fifty_problems_are_reported() {
    let keys: String = (0..80).map(|n| format!("unknown{n}: x\n")).collect();
    assert_eq!(problems(&keys).lines().count(), Problems::MOST);
}

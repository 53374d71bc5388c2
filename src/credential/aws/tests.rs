use super::{
    super::{
        SecretPlace, SecretValue,
        endpoint::{Endpoint, Reply},
        testing::Scene,
    },
    *,
};
use jiff::Timestamp;

const QUARTER: Duration = Duration::from_secs(900);

fn source(endpoint: &Endpoint) -> AssumeRole {
    AssumeRole {
        sts_endpoint: endpoint.url(),
        role_arn: "arn:aws:iam::123456789012:role/team/agent".into(),
        web_identity: Assertion::At(SecretPlace::Value(SecretValue(Zeroizing::new("to.k+en".into())))),
        session_policy: Some(r#"{"Statement":[]}"#.into()),
    }
}

/// As AWS answers.
fn document(key: &str, life: u64, arn: &str) -> String {
    let end = Timestamp::from_second(Timestamp::now().as_second() + i64::try_from(life).unwrap()).unwrap();
    format!(
        r#"<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult>
    <SubjectFromWebIdentityToken>sub</SubjectFromWebIdentityToken>
    <Audience>sts.amazonaws.com</Audience>
    <AssumedRoleUser><Arn>{arn}</Arn><AssumedRoleId>AROA:task-1</AssumedRoleId></AssumedRoleUser>
    <Credentials>
      <SessionToken>token</SessionToken>
      <SecretAccessKey>{key}</SecretAccessKey>
      <Expiration>{end}</Expiration>
      <AccessKeyId>ASIAEXAMPLE</AccessKeyId>
    </Credentials>
    <Provider>issuer.example</Provider>
  </AssumeRoleWithWebIdentityResult>
  <ResponseMetadata><RequestId>ad4156e9</RequestId></ResponseMetadata>
</AssumeRoleWithWebIdentityResponse>"#
    )
}

const ARN: &str = "arn:aws:sts::123456789012:assumed-role/agent/task-1";

async fn answering(text: String) -> Endpoint {
    Endpoint::start(move |_| Reply::status(200).header("content-type", "text/xml").body(&text)).await
}

async fn mint(endpoint: &Endpoint, useful: Duration, longest: Duration) -> Result<Minted, Unusable> {
    let scene = Scene::new();
    let asking = Asking { useful, ..scene.asking(&[], longest) };
    source(endpoint).mint(&asking).await
}

fn life(minted: &Minted) -> Duration {
    match minted.life {
        Life::For(life) => life,
        _ => panic!("STS tells a life"),
    }
}

#[tokio::test]
async fn the_request_is_as_the_api_says() {
    let endpoint = answering(document("secret", 900, ARN)).await;
    let minted = mint(&endpoint, QUARTER, QUARTER).await.ok().unwrap();
    assert_eq!(minted.secret.values(), ["secret", "token"]);
    assert!(minted.handle.is_none());
    assert!(life(&minted) <= QUARTER && life(&minted) > QUARTER - Duration::from_secs(60));
    let seen = endpoint.seen();
    assert_eq!(
        seen[0].body,
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15\
         &RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fteam%2Fagent&RoleSessionName=task-1\
         &WebIdentityToken=to.k%2Ben&DurationSeconds=900&Policy=%7B%22Statement%22%3A%5B%5D%7D"
    );
    assert_eq!(seen[0].authorization, "");
}

#[tokio::test]
async fn a_life_within_what_sts_knows_is_asked_for_and_no_more_is_served_than_allowed() {
    let table = [(60, 60, 900, 60), (900, 900, 900, 900), (1800, 3600, 1800, 1800), (90_000, 90_000, 43_200, 43_200)];
    for (useful, longest, asked, served) in table {
        let endpoint = answering(document("secret", asked, ARN)).await;
        let minted = mint(&endpoint, Duration::from_secs(useful), Duration::from_secs(longest)).await.ok().unwrap();
        assert!(endpoint.seen()[0].body.contains(&format!("DurationSeconds={asked}&")), "{useful}");
        assert!(life(&minted).as_secs() <= served && life(&minted).as_secs() + 5 >= served.min(asked), "{useful}");
    }
}

#[tokio::test]
async fn keys_that_live_longer_than_was_asked_for_are_refused() {
    let endpoint = answering(document("secret", 3600, ARN)).await;
    let unusable = mint(&endpoint, QUARTER, QUARTER).await.err().unwrap();
    assert_eq!(unusable.failure.refusal, CredentialRefusal::LifetimeExceeded);
}

#[tokio::test]
async fn an_answer_that_is_not_exactly_right_is_refused() {
    let right = document("secret", 900, ARN);
    let table = [
        String::new(),
        "{}".to_owned(),
        document("secret", 900, "arn:aws:sts::123456789012:assumed-role/admin/task-1"),
        document("secret", 900, "arn:aws:sts::123456789012:assumed-role/agent/task-2"),
        right.replace("<SecretAccessKey>secret</SecretAccessKey>", ""),
        right.replace("SessionToken>", "Token>"),
        right.replace("AssumeRoleWithWebIdentityR", "AssumeRoleR"),
        right.replace("<Expiration>", "<Expiration>x"),
        right.replace("<AccessKeyId>", "<AccessKeyId>A</AccessKeyId><AccessKeyId>"),
        format!("<!DOCTYPE x>{right}"),
    ];
    for text in table {
        let endpoint = answering(text.clone()).await;
        let unusable = mint(&endpoint, QUARTER, QUARTER).await.err().expect(&text);
        assert_eq!(unusable.failure.refusal, CredentialRefusal::Malformed, "{text}");
        assert!(!unusable.failure.detail.contains("secret"), "{}", unusable.failure.detail);
    }
    let quiet = answering(document("secret", 900, "")).await;
    assert!(mint(&quiet, QUARTER, QUARTER).await.is_ok(), "one that only speaks like STS");
}

#[tokio::test]
async fn a_status_says_who_is_at_fault_and_only_known_errors_are_told() {
    use CredentialRefusal::{Malformed, Rejected, Unavailable};
    let table = [
        (403, "AccessDenied", Rejected, "the issuer answered 403: AccessDenied"),
        (400, "ExpiredTokenException", Rejected, "the issuer answered 400: ExpiredTokenException"),
        (400, "IDPCommunicationError", Unavailable, "the issuer answered 400: IDPCommunicationError"),
        (400, "Throttling", Unavailable, "the issuer answered 400: Throttling"),
        (400, "canary", Rejected, "the issuer answered 400"),
        (429, "canary", Unavailable, "the issuer answered 429"),
        (503, "canary", Unavailable, "the issuer answered 503"),
        (302, "canary", Malformed, "the issuer answered 302"),
    ];
    for (status, code, refusal, detail) in table {
        let text =
            format!("<ErrorResponse xmlns='x'><Error><Type>Sender</Type><Code>{code}</Code></Error></ErrorResponse>");
        let endpoint = Endpoint::start(move |_| Reply::status(status).body(&text)).await;
        let failure = mint(&endpoint, QUARTER, QUARTER).await.err().unwrap().failure;
        assert_eq!((failure.refusal, &*failure.detail), (refusal, detail));
    }
}

#[tokio::test]
async fn an_agent_that_can_prove_nothing_gets_no_keys() {
    let endpoint = answering(document("secret", 900, ARN)).await;
    let source = AssumeRole { web_identity: Assertion::Identity("sts.amazonaws.com".into()), ..source(&endpoint) };
    let scene = Scene::new();
    let failure = source.mint(&scene.asking(&[], QUARTER)).await.err().unwrap().failure;
    assert_eq!(failure.refusal, CredentialRefusal::Misconfigured);
    assert!(failure.detail.starts_with("web identity: ") && failure.detail.contains("spiffe or kubernetes"));
    assert!(endpoint.seen().is_empty());
}

#[test]
fn a_session_is_named_after_its_task() {
    let long = "x".repeat(100);
    let table = [
        ("0190b6f6-9d7c-7c3e", "0190b6f6-9d7c-7c3e"),
        ("a b/c:d#é", "a-b-c-d--"),
        ("", "--"),
        ("a", "a-"),
        (&long, &long[..64]),
    ];
    for (task, name) in table {
        assert_eq!(session_name(task), name);
    }
}

//! git over HTTPS, in front of git's own server.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{io::AsyncWriteExt, process::Command};

use super::{NO_WRITES, Says, are_there, clean, cleaned, lines, run, sorted, trusted};
use crate::actors::{Origin, Sidecar, origin};

#[tokio::test]
async fn git_clones_and_its_push_is_denied() {
    if !are_there(&["git"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let served = project(dir.path()).await;
    let origin =
        Origin::https("git.example.test").answering(move |request| http_backend(served.clone(), request)).start().await;
    let mut sidecar = trusted(Sidecar::with_policy(NO_WRITES).in_front_of(&origin)).await;
    let git = |arguments: &[&str]| {
        let variables = [("https_proxy", Says::Proxy), ("GIT_SSL_CAINFO", Says::Bundle)];
        let mut git = cleaned(&["git"], &variables, &sidecar);
        git.current_dir(dir.path()).args(arguments);
        git
    };

    lines(&mut git(&["clone", "--quiet", &origin.url("/project.git"), "copy"])).await;
    let cloned = fs::read_to_string(dir.path().join("copy/large.txt")).expect("it was cloned");
    assert_eq!(cloned, large());
    let pushed = run(&mut git(&["-C", "copy", "push", "--quiet", "origin", "HEAD:refs/heads/mine"])).await;

    assert!(!pushed.status.success());
    let complaint = String::from_utf8_lossy(&pushed.stderr).into_owned();
    assert!(complaint.contains("The requested URL returned error: 403"), "{complaint}");
    assert!(origin.requests().iter().all(|seen| !seen.target.contains("receive-pack")));
    for _ in 0..4 {
        sidecar.ended().await;
    }
    let recorded = [
        "GET git.example.test allow",
        "GET git.example.test policy_denied",
        "POST git.example.test allow",
        "POST git.example.test allow",
    ];
    assert_eq!(sorted(sidecar.records().await), recorded);
}

/// A folder that holds `project.git`, to which everyone may push.
pub(super) async fn project(dir: &Path) -> PathBuf {
    let work = dir.join("work");
    fs::create_dir(&work).expect("a directory");
    fs::write(work.join("large.txt"), large()).expect("it can be written");
    for arguments in [
        "init --quiet",
        "add large.txt",
        "-c user.name=t -c user.email=t@example.test commit --quiet --message=first",
        "clone --quiet --bare . ../served/project.git",
        "-C ../served/project.git config http.receivepack true",
    ] {
        lines(clean(&mut Command::new("git"), dir).current_dir(&work).args(arguments.split(' '))).await;
    }
    dir.join("served")
}

/// Numbers that compress badly enough for the pack to come in several pieces.
fn large() -> String {
    (0..50_000_u64).map(|n| format!("{:x}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect()
}

/// git's own server, as a CGI program.
pub(super) async fn http_backend(served: PathBuf, request: Request<Incoming>) -> Response<origin::Body> {
    let (parts, body) = request.into_parts();
    let field = |name: &str| parts.headers.get(name).map_or("", |value| value.to_str().expect("git sends text"));
    let mut backend = Command::new("git");
    clean(&mut backend, &served)
        .arg("http-backend")
        .envs([("GIT_HTTP_EXPORT_ALL", "1"), ("REMOTE_ADDR", "127.0.0.1")])
        .env("GIT_PROJECT_ROOT", &served)
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", field("content-type"))
        .env("HTTP_CONTENT_ENCODING", field("content-encoding"))
        .env("GIT_PROTOCOL", field("git-protocol"));
    let mut backend = backend.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git can be started");
    let body = body.collect().await.expect("the body is whole").to_bytes();
    let mut stdin = backend.stdin.take().expect("it is piped");
    stdin.write_all(&body).await.expect("git reads its requests");
    drop(stdin);
    let answer = backend.wait_with_output().await.expect("git answers").stdout;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a CGI program begins with a head");
    let mut response = Response::new(origin::full(answer[end + 4..].to_vec()));
    for line in std::str::from_utf8(&answer[..end]).expect("the head is text").lines() {
        let (name, value) = line.split_once(": ").expect("a line of the head is a field");
        if name == "Status" {
            *response.status_mut() = StatusCode::from_bytes(&value.as_bytes()[..3]).expect("a status");
        } else {
            let name: HeaderName = name.parse().expect("a field's name");
            response.headers_mut().insert(name, value.parse().expect("a field's value"));
        }
    }
    response
}

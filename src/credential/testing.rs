//! What a broker's tests ask with.

use std::{sync::Arc, time::Duration};

use zeroize::Zeroizing;

use super::{
    SecretPlace, SecretValue, Source,
    endpoint::client,
    exception::Exception,
    file::Register,
    mint::{Asking, Secret, Tools},
    oauth::{
        Grant, Oauth,
        authentication::{Authentication, Client},
        server::{Endpoints, Server},
        target::Target,
    },
};
use crate::{
    config::Upstream,
    identity::{self, Identity},
    task::Task,
};

/// A task, a destination and the tools: all that is asked with, but for what a test is about.
pub(super) struct Scene {
    pub(super) tools: Tools,
    pub(super) task: Task,
    pub(super) upstream: Upstream,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self {
            tools: Tools::new(client(), identity()),
            task: Task { id: "task-1".into(), purpose: "triage".into(), ..Task::none() },
            upstream: crate::audit::testing::upstream(),
        }
    }

    pub(super) fn asking<'a>(&'a self, scopes: &'a [&'a str], longest: Duration) -> Asking<'a> {
        let Self { tools, task, upstream } = self;
        Asking { tools, scopes, longest, useful: longest, task, upstream }
    }
}

/// An identity that nothing proves.
pub(super) fn identity() -> Arc<Identity> {
    Arc::new(Identity::new(&identity::Source::Configured, "spiffe://example.org/tester".into()))
}

/// A secret of one value.
pub(super) fn value(text: &str) -> Secret {
    Secret::Value(Zeroizing::new(text.to_owned()))
}

/// The exception register with this file.
pub(super) fn register(file: &str) -> Source {
    Source::File(Register { file: file.into(), exception: Exception { owner: "team-x".into(), expires: None } })
}

/// A secret of our own, which was given.
pub(super) fn own(text: &str) -> SecretPlace {
    SecretPlace::Value(SecretValue(Zeroizing::new(text.to_owned())))
}

/// The simplest of what an OAuth issuer gives, to the client `tollgate`.
pub(super) fn client_credentials(token_endpoint: &str, revocation_endpoint: Option<&str>) -> Oauth {
    let endpoints = Endpoints::Written {
        token: token_endpoint.into(),
        revocation: revocation_endpoint.map(Into::into),
        issuer: None,
    };
    let authentication = Authentication::Basic(own("canary-client"));
    let client = Client { id: "tollgate".into(), authentication, audience: None };
    let target = Target { scopes: vec!["read".into(), "write".into()], ..Target::default() };
    Oauth { grant: Grant::ClientCredentials, server: Server { endpoints, client }, target, dpop: false }
}

//! Microsoft Entra ID by a federated credential: OAuth 2.0 client credentials (RFC 6749 section 4.4), where our identity's
//! token takes the place of a client secret (RFC 7523 section 2.2).
//!
//! Entra decides how long a token lives, mostly 60 to 90 minutes, and takes none back: `max_ttl` has to allow that.

use std::time::Duration;

use super::{
    mint::{Asking, Minted, Unusable},
    oauth::{
        Grant, Oauth,
        authentication::{Authentication, Client},
        server::{Endpoints, Server},
        target::Target,
    },
    reply,
};

/// The request for this application's tokens of one tenant, at this authority (`https://login.microsoftonline.com`).
pub fn application(authority: &str, tenant: &str, client_id: &str, scopes: Vec<String>) -> Oauth {
    Oauth {
        grant: Grant::ClientCredentials,
        server: Server {
            endpoints: Endpoints::Written {
                token: format!("{authority}/{tenant}/oauth2/v2.0/token").into(),
                revocation: None,
                issuer: None,
            },
            client: Client {
                id: client_id.to_owned(),
                authentication: Authentication::Identity,
                audience: Some(AUDIENCE.to_owned()),
            },
        },
        target: Target { scopes, ..Target::default() },
        dpop: false,
    }
}

/// Asks for a token, unless policy allows less life than any of Entra's has.
pub(super) async fn mint(source: &Oauth, asking: &Asking<'_>) -> Result<Minted, Unusable> {
    reply::can_be_as_short(SHORTEST, asking.longest)?;
    source.mint(asking).await
}

/// The least that a tenant can have set (configurable token lifetimes).
const SHORTEST: Duration = Duration::from_secs(600);

/// Whom Entra wants our token to be for.
const AUDIENCE: &str = "api://AzureADTokenExchange";

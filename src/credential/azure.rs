//! Microsoft Entra ID by a federated credential: OAuth 2.0 client credentials (RFC 6749 section 4.4), where our identity's
//! token takes the place of a client secret (RFC 7523 section 2.2).
//!
//! Entra decides how long a token lives, mostly 60 to 90 minutes, and takes none back: `max_ttl` has to allow that.

use super::oauth::{
    Grant, Oauth,
    authentication::{Authentication, Client},
    server::{Endpoints, Server},
    target::Target,
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

/// Whom Entra wants our token to be for.
const AUDIENCE: &str = "api://AzureADTokenExchange";

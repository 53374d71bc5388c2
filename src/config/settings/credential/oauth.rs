//! Credentials from OAuth 2.0 issuers, as written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Placement, max_ttl};
use crate::config::values::{Period, SecretPlace};

/// Tokens from an OAuth 2.0 issuer, for one task and one destination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Oauth {
    /// The issuer's identifier. Without `token_endpoint` it is asked where its endpoints are (RFC 8414); https, or http
    /// to a loopback address. Required for `id_jag`. Example: `https://issuer.example`.
    pub issuer: Option<String>,
    /// Where tokens are asked for; https, or http to a loopback address. Example: `https://issuer.example/token`.
    pub token_endpoint: Option<String>,
    /// Where they are revoked (RFC 7009), where the issuer can. Example: `https://issuer.example/revoke`.
    pub revocation_endpoint: Option<String>,
    /// Whether an issuer that is asked for its endpoints must name one for revocation. Example: `false`.
    pub revocable: Option<bool>,
    /// Who we are to the issuer.
    #[schemars(required)]
    pub client: Option<OauthClient>,
    /// The scopes that are asked for. Example: `[read]`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The audience that is asked for. Example: `https://api.example.com`.
    pub audience: Option<String>,
    /// The resources that it is asked for (RFC 8707): absolute URIs. Example: `[https://api.example.com/v1]`.
    #[serde(default)]
    pub resources: Vec<String>,
    /// What exactly is asked for (RFC 9396): objects with a `type`. Example: `[{type: files, actions: [read]}]`.
    #[serde(default)]
    pub authorization_details: Vec<BTreeMap<String, serde_json::Value>>,
    /// Whether tokens are bound to a key of ours (RFC 9449), one for each. Example: `true`.
    #[serde(default)]
    pub dpop: bool,
    /// Of `oauth_token_exchange` and `id_jag`: on whose behalf it is asked; without it, the agent's own identity.
    /// Example: `{token: {file: /run/user/id-token}, type: id_token}`.
    pub subject: Option<OauthToken>,
    /// Of `oauth_token_exchange`: who acts, where that is told apart from the subject; `{}` is the agent's own identity.
    pub actor: Option<OauthToken>,
    /// Of `oauth_token_exchange`: what is wanted in exchange. Example: `access_token`.
    pub requested_token_type: Option<RequestedType>,
    /// Of `oauth_jwt_bearer`: what is shown to the issuer; without it, the agent's own identity. Example:
    /// `{key: {file: /run/secrets/key.pem}, subject: build}`.
    pub assertion: Option<OauthToken>,
    /// Of `id_jag`: who gives the assertion that the issuer takes.
    pub identity_provider: Option<IdentityProvider>,
    /// The longest life of a token that is accepted. Example: `15m`.
    #[serde(default = "max_ttl")]
    pub max_ttl: Period,
    /// Whether each call has one of its own, which ends with it. Example: `true`.
    #[serde(default)]
    pub per_call: bool,
    /// How it goes onto a request. Example: `bearer`.
    #[serde(default, rename = "as")]
    pub placement: Placement,
}

/// A client of an OAuth issuer. It has exactly one of `secret`, `key` and `assertion`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OauthClient {
    /// The client's identifier. Example: `tollgate`.
    #[schemars(required)]
    pub id: Option<String>,
    /// Where the client's secret stands. Example: `{file: /run/secrets/client-secret}`.
    pub secret: Option<SecretPlace>,
    /// How the secret is sent. Example: `client_secret_basic`.
    pub method: Option<SecretMethod>,
    /// Where the private key stands that signs what proves who we are (`private_key_jwt`): P-256 or RSA, in PEM. Example:
    /// `{file: /run/secrets/client-key.pem}`.
    pub key: Option<SecretPlace>,
    /// The name that the issuer knows the key by. Example: `2027-01`.
    pub key_id: Option<String>,
    /// The agent's own identity as the proof. Example: `spiffe`.
    pub assertion: Option<ClientAssertion>,
    /// Whom a proof is for; the issuer without it, or its token endpoint. Example: `https://issuer.example`.
    pub audience: Option<String>,
}

/// How a client's secret is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecretMethod {
    /// In `Authorization: Basic …`.
    ClientSecretBasic,
    /// In the form.
    ClientSecretPost,
}

/// An identity that proves who a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAssertion {
    /// A SPIFFE JWT-SVID, as such.
    Spiffe,
    /// The token of the agent's identity, as any JSON Web Token that the issuer was told to trust.
    Identity,
}

/// A token that is shown to an issuer: somebody else's, one that we sign, or without both the agent's own identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OauthToken {
    /// Where a token stands that somebody else gave; read at each use. Example: `{file: /run/user/id-token}`.
    pub token: Option<SecretPlace>,
    /// Where the private key stands that signs a token of ours: P-256 or RSA, in PEM.
    pub key: Option<SecretPlace>,
    /// The name that the issuer knows the key by. Example: `2027-01`.
    pub key_id: Option<String>,
    /// Who says so in a token of ours; the client's id without it. Example: `tollgate`.
    pub issuer: Option<String>,
    /// About whom a token of ours is. Example: `build`.
    pub subject: Option<String>,
    /// Whom a token of ours or the agent's identity is for; the issuer without it. Example: `https://issuer.example`.
    pub audience: Option<String>,
    /// What it is; `jwt` for a token of ours and the agent's identity. Example: `id_token`.
    #[serde(rename = "type")]
    pub token_type: Option<ShownType>,
}

/// What a token is that is shown (RFC 8693 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShownType {
    /// An access token of the same issuer.
    AccessToken,
    /// An `OpenID` Connect ID token.
    IdToken,
    /// Any JSON Web Token.
    Jwt,
    /// A SAML 2.0 assertion.
    Saml2,
    /// A refresh token.
    RefreshToken,
}

/// What a token is that is asked for in exchange (RFC 8693 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestedType {
    /// An access token.
    AccessToken,
    /// A JSON Web Token.
    Jwt,
}

/// The issuer that gives an assertion about somebody for another issuer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityProvider {
    /// Its identifier. Example: `https://idp.example`.
    pub issuer: Option<String>,
    /// Where it is asked. Example: `https://idp.example/token`.
    pub token_endpoint: Option<String>,
    /// Where it revokes what can't be used, where it can. Example: `https://idp.example/revoke`.
    pub revocation_endpoint: Option<String>,
    /// Whether it must name an endpoint for revocation, if it is asked for its endpoints. Example: `false`.
    pub revocable: Option<bool>,
    /// Who we are to it.
    #[schemars(required)]
    pub client: Option<OauthClient>,
}

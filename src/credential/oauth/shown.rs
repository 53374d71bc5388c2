//! The tokens that are shown to an issuer: on whose behalf something is asked, and who asks.

use crate::credential::assertion::Assertion;

/// A token, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed {
    /// Where it comes from.
    pub shown: Assertion,
    /// What it is.
    pub token_type: TokenType,
}

/// What a token is (RFC 8693 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
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
    /// An assertion about somebody for another issuer.
    IdJag,
}

impl TokenType {
    /// Its registered name.
    pub(super) fn urn(self) -> &'static str {
        match self {
            Self::AccessToken => "urn:ietf:params:oauth:token-type:access_token",
            Self::IdToken => "urn:ietf:params:oauth:token-type:id_token",
            Self::Jwt => "urn:ietf:params:oauth:token-type:jwt",
            Self::Saml2 => "urn:ietf:params:oauth:token-type:saml2",
            Self::RefreshToken => "urn:ietf:params:oauth:token-type:refresh_token",
            Self::IdJag => "urn:ietf:params:oauth:token-type:id-jag",
        }
    }
}

//! Credentials from real issuers: of the right scope and life on the wire, and gone when their task is.

mod aws;
mod github;
mod cloud;
mod oauth;
mod per_call;
mod registry;
pub mod vault;

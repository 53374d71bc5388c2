//! The three actors of every story: the [`Origin`] is what the world sees, the [`Sidecar`] is the real program in process,
//! and the [`Agent`] is a client.

pub mod agent;
pub mod bao;
pub mod issuer;
pub mod origin;
pub mod postgres;
pub mod sidecar;

pub use agent::{Agent, Answer};
pub use bao::Bao;
pub use issuer::Issuer;
pub use origin::{Certificate, Origin};
pub use postgres::Postgres;
pub use sidecar::Sidecar;

//! Tollgate stands beside one AI agent. Every outbound call of that agent passes through it, is decided by policy in
//! process, loses the secrets that the agent brought, gains an ephemeral one where policy permits it, and leaves a span
//! and an audit record.
//!
//! The modules below stand in the order that a call meets them:
//!
//! ```text
//! agent ─tcp─> listener ─> connection ─┬─ refuse
//!                           │ sniff    ├─ tunnel  (bytes; only where policy says so)
//!                           v          └─ open    (TLS as the origin)
//!                         exchange:  call ─> secret ─> policy ─> credential ─> origin ─> audit
//! ```
//!
//! Start reading at [`exchange`]. Nothing is forwarded without a [`policy::Permit`], and only [`policy`] makes one.

pub mod sidecar;

pub mod listener;
pub mod connection;
pub mod sniff;
pub mod tls;
pub mod exchange;
pub mod call;
pub mod task;
pub mod secret;
pub mod policy;
pub mod credential;
pub mod identity;
pub mod origin;
pub mod tunnel;
pub mod body;
pub mod refusal;
pub mod audit;
pub mod telemetry;

pub mod config;
pub mod admin;
pub mod health;
pub mod shutdown;
pub mod memory;

pub mod cli;
pub mod demo;
pub mod exec;
pub mod kubernetes;

//! The sidecar as a whole, between agents and origins. Each test asserts what the agent saw, what the origin saw and what
//! was recorded.

mod actors;

mod canary;
mod cli;
mod clients;
mod examples;
mod exec;
mod fail_closed;
mod forwarding;
mod names;
mod policy;
mod reload;
mod secrets;
mod streaming;
mod tools;
mod tunnels;

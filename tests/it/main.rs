//! The sidecar as a whole, between agents and origins. Each test asserts what the agent saw, what the origin saw and what
//! was recorded.

mod actors;
mod machine;

mod canary;
mod cli;
mod clients;
mod cni;
mod examples;
mod exec;
mod fail_closed;
mod fence;
mod forwarding;
mod inject;
mod names;
mod pod;
mod policy;
mod pooling;
mod reload;
mod secrets;
mod streaming;
mod tools;
mod tunnels;

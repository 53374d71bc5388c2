//! The sidecar as a whole, between agents and origins. Each test asserts what the agent saw, what the origin saw and what
//! was recorded.

mod actors;
mod machine;

mod brokers;
mod canary;
mod cli;
mod clients;
mod cni;
mod corpus;
mod crash;
mod custody_of_memory;
mod examples;
mod exec;
mod fail_closed;
mod fence;
mod forwarding;
mod identity;
mod inject;
mod loopholes;
mod names;
mod pod;
mod policy;
mod pooling;
mod reload;
mod scrubbing;
mod secrets;
mod spiffe;
mod streaming;
mod tasks;
mod tools;
mod tunnels;

//! Tells the outside what happened: spans, metrics and a few log lines.
//!
//! Nothing here is on the path of a call: a collector that is slow or down costs spans, which are counted, and never a
//! call. No URL, task or other unbounded value becomes a metric's label, and no secret reaches any of them: they see
//! [`Facts`](crate::audit::Facts) only.

pub mod logs;
pub mod metrics;
pub mod otlp;
mod protobuf;
pub mod spans;
pub mod trace;

pub use metrics::Metrics;
pub use spans::Spans;
pub use trace::TraceContext;

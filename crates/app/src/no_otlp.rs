//! What stands in for the export of spans in a build without it: nothing of the kind can be.

use anyhow::bail;

use crate::config::OtlpConfig;
use crate::telemetry::SpanLayer;

/// There is none in this build.
#[derive(Debug)]
pub enum Export {}

impl Export {
    /// Refuses. The configuration has been refused before.
    pub fn start(_: &OtlpConfig) -> anyhow::Result<Self> {
        bail!("this build has no OTLP export; build it with --features otlp")
    }

    /// Cannot be called.
    pub fn layer(&self) -> SpanLayer {
        match *self {}
    }

    /// Cannot be called.
    pub fn end(self) {
        match self {}
    }
}

//! `lonja health`: asks a gRPC service how it is, where there is no shell and no curl.

use std::time::Duration;

use anyhow::{Context as _, bail};
use lonja_chassis::rpc::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Settings of the health check.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Config {
    /// Where the service is, such as 127.0.0.1:50051
    address: String,
    /// The service to ask about, such as lonja.registry.v1.RegistryService; all if not given
    #[arg(long, value_name = "NAME", default_value = "")]
    service: String,
}

/// Fails unless the service says SERVING.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let Config { address, service } = config;
    let url = if address.contains("://") { address.clone() } else { format!("http://{address}") };
    let mut client = HealthClient::new(Channel::remote(&url)?);
    let answer = tokio::time::timeout(PATIENCE, client.check(HealthCheckRequest { service })).await;
    let status = answer
        .with_context(|| format!("{address} does not answer"))?
        .map_err(|status| anyhow::anyhow!("{address}: {}", status.message()))?
        .into_inner()
        .status();
    if status != ServingStatus::Serving {
        bail!("{address} is {}", status.as_str_name());
    }
    Ok(())
}

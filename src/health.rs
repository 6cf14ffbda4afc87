//! `lonja health`: asks a service whether it is ready, for places without a shell and curl.

use std::time::Duration;

use anyhow::{Context as _, bail};
use lonja_chassis::http;
use lonja_rpc::{Channel, Dial, Names};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// How long the service may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Settings of the health check.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Config {
    /// Address of a gRPC service, such as 127.0.0.1:50051, or of a page that answers 200 while a
    /// service is ready, such as http://127.0.0.1:9090/readyz
    address: String,
    /// Name of the gRPC service to ask about, such as lonja.registry.v1.RegistryService; all if not
    /// given
    #[arg(long, value_name = "NAME", default_value = "")]
    service: String,
}

/// Asks once, and fails unless the service answers SERVING or the page 200.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let Config { address, service } = config;
    if let Some((_, path)) = address.strip_prefix("http://").and_then(|rest| rest.split_once('/'))
        && !path.is_empty()
    {
        let answer = tokio::time::timeout(PATIENCE, http::get(&address)).await;
        let (status, page) = answer.with_context(|| format!("{address} does not answer"))??;
        if status != 200 {
            bail!("{address} says {status}: {}", page.trim());
        }
        return Ok(());
    }
    let url = if address.contains("://") { address.clone() } else { format!("http://{address}") };
    let mut client = HealthClient::new(Channel::remote(&url, &Names::new(None)?, Dial::Plain)?);
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

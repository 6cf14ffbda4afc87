//! How commands of an operator call the console of a running index.

use std::time::Duration;

use anyhow::Context as _;
use lonja_proto::console::console_service_client::ConsoleServiceClient;
use lonja_rpc::{Channel, Dial, Names};
use tokio::time;
use tonic::{Code, Request, Status, metadata::MetadataValue};

/// How long the console may send nothing. A console that has nothing new sends a beat after five
/// seconds.
const SILENCE: Duration = Duration::from_secs(12);

/// Which console to call, and the token that opens it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConsoleAt {
    #[command(flatten)]
    console: ConsoleUrl,
    /// The console's token, if it asks for one
    #[arg(long, env = "LONJA_CONSOLE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl ConsoleAt {
    pub(crate) fn client(&self) -> anyhow::Result<ConsoleServiceClient<Channel>> {
        Ok(ConsoleServiceClient::new(self.console.channel()?))
    }

    pub(crate) fn request<T>(&self, message: T) -> anyhow::Result<Request<T>> {
        self.console.request(message, self.token.as_deref())
    }

    /// Waits for what the console sends next, as [`ConsoleUrl::next`] does.
    pub(crate) async fn next<T>(&self, next: impl Future<Output = Result<T, Status>>) -> anyhow::Result<T> {
        self.console.next(next).await
    }

    /// Makes an error of a failed call: one line for a person, with what to do.
    pub(crate) fn explain(&self, status: &Status) -> anyhow::Error {
        self.console.explain(status)
    }
}

/// Where a console is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConsoleUrl {
    /// URL of the index's console
    #[arg(
        long,
        env = "LONJA_CONSOLE",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080",
        global = true
    )]
    console: String,
}

impl ConsoleUrl {
    pub(crate) fn channel(&self) -> anyhow::Result<Channel> {
        Ok(Channel::remote(&self.console, &Names::new(None)?, Dial::Plain)?)
    }

    pub(crate) fn request<T>(&self, message: T, token: Option<&str>) -> anyhow::Result<Request<T>> {
        let mut request = Request::new(message);
        if let Some(token) = token {
            let token = MetadataValue::try_from(format!("Bearer {token}"));
            request.metadata_mut().insert(
                "authorization",
                token.context("--token: use letters, digits and signs, without spaces")?,
            );
        }
        Ok(request)
    }

    /// Waits for what the console sends next, for [`SILENCE`] at most.
    pub(crate) async fn next<T>(&self, next: impl Future<Output = Result<T, Status>>) -> anyhow::Result<T> {
        let next = time::timeout(SILENCE, next).await;
        let next = next.with_context(|| format!("{} has stopped answering", self.console))?;
        next.map_err(|status| self.explain(&status))
    }

    /// Makes an error of a failed call: one line for a person, with what to do.
    pub(crate) fn explain(&self, status: &Status) -> anyhow::Error {
        let console = &self.console;
        // A message that begins with a service's name was sent by the console, which is therefore
        // there.
        let services = ["audit: ", "catalog: ", "registry: "];
        let is_there = services.iter().any(|name| status.message().starts_with(name));
        match status.code() {
            Code::Unavailable if !is_there => {
                anyhow::anyhow!(
                    "no console at {console}: start `lonja up`, or say where it is with --console"
                )
            }
            Code::Unauthenticated => anyhow::anyhow!("{}: give it with --token", status.message()),
            _ => anyhow::anyhow!("{console}: {}", status.message()),
        }
    }
}

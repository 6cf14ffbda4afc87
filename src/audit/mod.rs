//! `lonja audit tail|list|export`: the operations that peers asked for, in a terminal.
//!
//! They are read through the console, which `lonja up` has as well as the services do.

mod export;
mod line;

use std::{
    io::{self, BufWriter, Stdout, Write},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use jiff::{Span, Timestamp};
use lonja_chassis::rpc::{Channel, Names};
use lonja_proto::{
    audit::{Operation, OperationFilter, OperationRecord},
    console::{ListOperationsRequest, WatchOperationsRequest, console_service_client::ConsoleServiceClient},
};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, metadata::MetadataValue};

/// How long the console may say nothing: it says something every five seconds.
const SILENCE: Duration = Duration::from_secs(12);
/// How long to wait before a tail tries again.
const PAUSE: Duration = Duration::from_secs(1);

/// What to do with the records.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Look {
    /// Print operations as they are recorded, until interrupted
    Tail {
        /// Begin with so many of the newest
        #[arg(long, short = 'n', value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
        newest: u32,
        /// Print a JSON object for each operation
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        source: Source,
    },
    /// Print the operations that are recorded, oldest first
    List {
        /// Print a JSON object for each operation
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        source: Source,
    },
    /// Print the operations that are recorded as CSV, with a header line
    Export {
        #[command(flatten)]
        source: Source,
    },
}

/// Which records, and of which index.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Source {
    /// Where the index's console is
    #[arg(long, env = "LONJA_CONSOLE", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    console: String,
    /// The console's token, if it asks for one
    #[arg(long, env = "LONJA_CONSOLE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Only what this user did
    #[arg(long, value_name = "USER", default_value = "")]
    user: String,
    /// Only this operation
    #[arg(long, value_enum, value_name = "OPERATION")]
    operation: Option<OperationName>,
    /// Only from this moment on: 2026-01-31T12:00:00Z, or 10m for ten minutes ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only before this moment
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
}

/// An operation as people type it.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum OperationName {
    Register,
    Unregister,
    Connect,
    Disconnect,
    Publish,
    Delete,
    ListUsers,
    ListContent,
}

impl From<OperationName> for Operation {
    fn from(name: OperationName) -> Self {
        match name {
            OperationName::Register => Self::Register,
            OperationName::Unregister => Self::Unregister,
            OperationName::Connect => Self::Connect,
            OperationName::Disconnect => Self::Disconnect,
            OperationName::Publish => Self::Publish,
            OperationName::Delete => Self::Delete,
            OperationName::ListUsers => Self::ListUsers,
            OperationName::ListContent => Self::ListContent,
        }
    }
}

fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    let ago: Option<Span> = text.parse().ok();
    let moment = ago.and_then(|ago| Timestamp::now().checked_sub(ago.abs()).ok());
    moment
        .ok_or_else(|| "use 2026-01-31T12:00:00Z, or hours, minutes and seconds ago: 2h, 10m, 30s".to_owned())
}

/// Does it until it is done, or until shutdown.
pub(crate) async fn run(look: Look, shutdown: CancellationToken) -> anyhow::Result<()> {
    let is_tail = matches!(look, Look::Tail { .. });
    let done = async {
        match look {
            Look::Tail { newest, json, source } => tail(&source, newest, json).await,
            Look::List { json, source } => list(&source, "", line::printer(json)).await,
            Look::Export { source } => list(&source, export::HEADING, &export::write).await,
        }
    };
    match shutdown.run_until_cancelled(Box::pin(done)).await {
        // Whoever reads has seen enough.
        Some(Err(error)) if is_closed_pipe(&error) => Ok(()),
        Some(result) => result,
        None if is_tail => Ok(()),
        None => bail!("interrupted: what was printed is not all"),
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes a record.
type Print = dyn Fn(&OperationRecord, &mut dyn Write) -> io::Result<()> + Send + Sync;

impl Source {
    fn client(&self) -> anyhow::Result<ConsoleServiceClient<Channel>> {
        Ok(ConsoleServiceClient::new(Channel::remote(&self.console, &Names::new(None)?, None)?))
    }

    fn request<T>(&self, message: T) -> anyhow::Result<Request<T>> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let token = MetadataValue::try_from(format!("Bearer {token}"));
            request
                .metadata_mut()
                .insert("authorization", token.context("--token: not one that can be sent")?);
        }
        Ok(request)
    }

    fn filter(&self) -> OperationFilter {
        let moment = |moment: Timestamp| prost_types::Timestamp {
            seconds: moment.as_second(),
            nanos: moment.subsec_nanosecond(),
        };
        OperationFilter {
            username: self.user.clone(),
            operation: self.operation.map_or(Operation::Unspecified, Operation::from).into(),
            since: self.since.map(moment),
            until: self.until.map(moment),
        }
    }

    /// One line for a person, with what to do.
    fn explain(&self, status: &Status) -> anyhow::Error {
        let console = &self.console;
        match status.code() {
            // What the console says of a service begins with its name.
            Code::Unavailable if !status.message().starts_with("audit: ") => {
                anyhow::anyhow!(
                    "no console at {console}: start `lonja up`, or say where it is with --console"
                )
            }
            Code::Unauthenticated => anyhow::anyhow!("{}: give it with --token", status.message()),
            _ => anyhow::anyhow!("{console}: {}", status.message()),
        }
    }
}

async fn list(source: &Source, heading: &str, print: &Print) -> anyhow::Result<()> {
    let request = source.request(ListOperationsRequest { filter: Some(source.filter()) })?;
    let answer = source.client()?.list_operations(request).await;
    let mut pages = answer.map_err(|status| source.explain(&status))?.into_inner();
    let mut out = BufWriter::new(io::stdout());
    out.write_all(heading.as_bytes())?;
    loop {
        let page = time::timeout(SILENCE, pages.message()).await;
        let page = page.with_context(|| format!("{} has stopped answering", source.console))?;
        let Some(page) = page.map_err(|status| source.explain(&status))? else { break };
        for record in &page.records {
            print(record, &mut out)?;
        }
    }
    Ok(out.flush()?)
}

/// Follows, and goes on where it was when the console comes back.
async fn tail(source: &Source, newest: u32, json: bool) -> anyhow::Result<()> {
    let mut tail = Tail { source, newest, page_token: String::new(), print: line::printer(json) };
    loop {
        match tail.follow().await {
            // The first attempt tells whether there is an index at all.
            Err(error) if is_closed_pipe(&error) || tail.page_token.is_empty() => return Err(error),
            Err(error) => eprintln!("lonja: {error:#}; trying again"),
            Ok(()) => eprintln!("lonja: the console has stopped; trying again"),
        }
        time::sleep(PAUSE).await;
    }
}

struct Tail<'a> {
    source: &'a Source,
    newest: u32,
    /// Where it goes on.
    page_token: String,
    print: &'a Print,
}

impl Tail<'_> {
    async fn follow(&mut self) -> anyhow::Result<()> {
        let request = self.source.request(WatchOperationsRequest {
            filter: Some(self.source.filter()),
            newest: self.newest,
            sample_size: 0,
            page_token: self.page_token.clone(),
        })?;
        let answer = self.source.client()?.watch_operations(request).await;
        let mut pages = answer.map_err(|status| self.source.explain(&status))?.into_inner();
        let mut out: Stdout = io::stdout();
        loop {
            let Ok(page) = time::timeout(SILENCE, pages.message()).await else {
                bail!("{} has stopped answering", self.source.console);
            };
            let Some(page) = page.map_err(|status| self.source.explain(&status))? else { return Ok(()) };
            for record in &page.records {
                (self.print)(record, &mut out)?;
            }
            out.flush()?;
            self.page_token = page.next_page_token;
        }
    }
}

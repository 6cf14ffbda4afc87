//! `lonja audit tail|list|export`: the operations that peers asked for, in a terminal.
//!
//! The operations are read through the console, which runs in `lonja up` and beside the services.

mod export;
mod line;

use std::{
    io::{self, BufWriter, Stdout, Write},
    time::Duration,
};

use anyhow::bail;
use clap::{Subcommand, ValueEnum};
use jiff::{Span, Timestamp};
use lonja_proto::{
    audit::{Operation, OperationFilter, OperationRecord},
    console::{ListOperationsRequest, WatchOperationsRequest},
};
use tokio::time;
use tokio_util::sync::CancellationToken;

pub(crate) use self::line::{operation_name, operation_named};
use crate::console_client::ConsoleAt;

/// How long a tail waits before it calls the console again.
const PAUSE: Duration = Duration::from_secs(1);

/// What to do with the records.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Look {
    /// Print operations as they are recorded, until interrupted
    Tail {
        /// Begin with this many of the newest operations
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
    /// Print the recorded operations as CSV, with a header line
    Export {
        #[command(flatten)]
        source: Source,
    },
}

/// Which records to print, and which console to ask for them.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Source {
    #[command(flatten)]
    console: ConsoleAt,
    /// Only operations of this user
    #[arg(long, value_name = "USER", default_value = "")]
    user: String,
    /// Only this operation
    #[arg(long, value_enum, ignore_case = true, value_name = "OPERATION")]
    operation: Option<OperationName>,
    /// Only operations that were not carried out
    #[arg(long)]
    failures: bool,
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
    GetFile,
    Free,
    Expire,
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
            OperationName::GetFile => Self::GetFile,
            OperationName::Free => Self::Free,
            OperationName::Expire => Self::Expire,
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

/// Prints the records that `look` asks for, until there are no more or until shutdown.
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
        // The reader of the output has closed the pipe, as `head` does.
        Some(Err(error)) if is_closed_pipe(&error) => Ok(()),
        Some(result) => result,
        None if is_tail => Ok(()),
        None => bail!("interrupted before everything was printed"),
    }
}

/// Whether the reader of the output has closed the pipe, as `head` does.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A function that writes a record in one of the formats.
type Print = dyn Fn(&OperationRecord, &mut dyn Write) -> io::Result<()> + Send + Sync;

impl Source {
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
            failures: self.failures,
        }
    }
}

async fn list(source: &Source, heading: &str, print: &Print) -> anyhow::Result<()> {
    let console = &source.console;
    let request = console.request(ListOperationsRequest { filter: Some(source.filter()) })?;
    let answer = console.client()?.list_operations(request).await;
    let mut pages = answer.map_err(|status| console.explain(&status))?.into_inner();
    let mut out = BufWriter::new(io::stdout());
    out.write_all(heading.as_bytes())?;
    while let Some(page) = console.next(pages.message()).await? {
        for record in &page.records {
            print(record, &mut out)?;
        }
    }
    Ok(out.flush()?)
}

/// Prints operations as they are recorded. After a break, continues behind the last operation that
/// was printed.
async fn tail(source: &Source, newest: u32, json: bool) -> anyhow::Result<()> {
    let mut tail = Tail { source, newest, page_token: String::new(), print: line::printer(json) };
    loop {
        match tail.follow().await {
            // Before the first page there may be no index at all: then trying again is of no use.
            Err(error) if is_closed_pipe(&error) || tail.page_token.is_empty() => return Err(error),
            Err(error) => eprintln!("lonja: {}; trying again", crate::line(&error)),
            Ok(()) => eprintln!("lonja: the console has stopped; trying again"),
        }
        time::sleep(PAUSE).await;
    }
}

struct Tail<'a> {
    source: &'a Source,
    newest: u32,
    /// The token of the last page, behind which the next call goes on.
    page_token: String,
    print: &'a Print,
}

impl Tail<'_> {
    async fn follow(&mut self) -> anyhow::Result<()> {
        let console = &self.source.console;
        let request = console.request(WatchOperationsRequest {
            filter: Some(self.source.filter()),
            newest: self.newest,
            sample_size: 0,
            page_token: self.page_token.clone(),
        })?;
        let answer = console.client()?.watch_operations(request).await;
        let mut pages = answer.map_err(|status| console.explain(&status))?.into_inner();
        let mut out: Stdout = io::stdout();
        while let Some(page) = console.next(pages.message()).await? {
            for record in &page.records {
                (self.print)(record, &mut out)?;
            }
            out.flush()?;
            self.page_token = page.next_page_token;
        }
        Ok(())
    }
}

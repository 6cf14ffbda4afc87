//! The embedded store's journal beside fjall: speed, and what both do with damage and a full disk.
//!
//! Both get the same work: whoever waits at the same moment is one commit, one row of a log, one sync.
//! The files are in the working directory, so choose its disk.

mod promises;

use std::{
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use fjall::{Database, KeyspaceCreateOptions, PersistMode};
use lonja_journal::{Journal, Row, State};
use prost::Message as _;
use tokio::sync::oneshot;

/// Pairs of runs for each row; the median counts.
const PAIRS: usize = 31;
/// How long each run takes.
const RUN: Duration = Duration::from_secs(1);
/// The number of rows after which old rows are forgotten.
const ROWS: u64 = 100_000;

/// A log of names, of which old ones do not matter.
struct Names;

#[derive(Clone, PartialEq, prost::Message)]
struct Name {
    #[prost(string, tag = "1")]
    name: String,
}

impl State for Names {
    const LOG: &'static str = "names";
    type Change = Name;
    type Command = String;
    type Outcome = ();
    type Staged = ();

    fn decide(&self, (): &mut (), name: String, changes: &mut Vec<Name>) {
        changes.push(Name { name });
    }

    fn apply(&mut self, _: Name, _: Row) {}

    fn is_live(&self, _: &Name, _: Row) -> bool {
        false
    }

    fn capacity(&self) -> u64 {
        ROWS
    }
}

/// Operations in a second, and microseconds of the processor for each.
type Figures = (f64, f64);

async fn journal(directory: &Path, submitters: usize) -> anyhow::Result<Figures> {
    let mut journal = Journal::open(directory, "names")?;
    let log = journal.add(Names)?;
    let journal = journal.start()?;
    let figures = load(submitters, move |name| {
        let log = log.clone();
        async move { Ok(log.submit(name).await.map_err(anyhow::Error::new)?) }
    });
    let figures = figures.await?;
    tokio::task::spawn_blocking(move || journal.close()).await?;
    Ok(figures)
}

async fn fjall(directory: &Path, submitters: usize) -> anyhow::Result<Figures> {
    let (queue, waiting) = mpsc::channel::<(String, oneshot::Sender<()>)>();
    let directory = directory.to_owned();
    let writer = std::thread::spawn(move || -> anyhow::Result<()> {
        let database = Database::builder(directory).open()?;
        let rows = database.keyspace("names", KeyspaceCreateOptions::default)?;
        let mut row = 0_u64;
        while let Ok(first) = waiting.recv() {
            let (mut bytes, mut answers) = (Vec::new(), Vec::new());
            for (name, answer) in std::iter::once(first).chain(waiting.try_iter()) {
                Name { name }.encode_length_delimited(&mut bytes)?;
                answers.push(answer);
            }
            row += 1;
            let mut batch = database.batch().durability(Some(PersistMode::SyncData));
            batch.insert(&rows, row.to_be_bytes(), bytes);
            if let Some(old) = row.checked_sub(ROWS) {
                batch.remove(&rows, old.to_be_bytes());
            }
            batch.commit()?;
            for answer in answers {
                // Whoever asked may have given up waiting.
                let _ = answer.send(());
            }
        }
        Ok(())
    });
    let figures = load(submitters, move |name| {
        let queue = queue.clone();
        async move {
            let (answer, done) = oneshot::channel();
            queue.send((name, answer)).ok().context("the writer has ended")?;
            Ok(done.await?)
        }
    });
    let figures = figures.await?;
    tokio::task::spawn_blocking(move || writer.join()).await?.ok().context("the writer panicked")??;
    Ok(figures)
}

/// Has `submitters` tasks submit one name after the other.
async fn load<F>(
    submitters: usize,
    submit: impl Fn(String) -> F + Clone + Send + 'static,
) -> anyhow::Result<Figures>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let (began, before) = (Instant::now(), processor()?);
    let submitter = |number: usize| {
        let submit = submit.clone();
        tokio::spawn(async move {
            let mut done = 0_u64;
            while began.elapsed() < RUN {
                submit(format!("user-{number}-{done} with a name of the usual length")).await?;
                done += 1;
            }
            anyhow::Ok(done)
        })
    };
    let submitters: Vec<_> = (0..submitters).map(submitter).collect();
    let mut done = 0;
    for submitter in submitters {
        done += submitter.await??;
    }
    let figures = (done as f64 / began.elapsed().as_secs_f64(), (processor()? - before) * 1e6 / done as f64);
    Ok(figures)
}

/// The processor time of this process, in seconds.
fn processor() -> anyhow::Result<f64> {
    const TICKS: f64 = 100.0;
    let status = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = status.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).context("a field")?.parse::<f64>().context("a number");
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    promises::show()?;
    println!("{PAIRS} pairs of {RUN:?}; medians; ratios are fjall / journal, pair by pair");
    for submitters in [1, 64, 256] {
        let mut pairs = Vec::new();
        // The first pair warms up and does not count.
        for pair in 0..=PAIRS {
            let (one, other) = (tempfile::tempdir_in(".")?, tempfile::tempdir_in(".")?);
            pairs.push(if pair % 2 == 0 {
                let ours = journal(one.path(), submitters).await?;
                (ours, fjall(other.path(), submitters).await?)
            } else {
                let theirs = fjall(other.path(), submitters).await?;
                (journal(one.path(), submitters).await?, theirs)
            });
        }
        pairs.remove(0);
        let of = |figure: fn(&(Figures, Figures)) -> f64| median(pairs.iter().map(figure).collect());
        println!(
            "{submitters:>4} submitters: journal {:.0}/s {:.1} us, fjall {:.0}/s {:.1} us; throughput {:.2}, processor {:.2}",
            of(|(journal, _)| journal.0),
            of(|(journal, _)| journal.1),
            of(|(_, fjall)| fjall.0),
            of(|(_, fjall)| fjall.1),
            of(|(journal, fjall)| fjall.0 / journal.0),
            of(|(journal, fjall)| fjall.1 / journal.1),
        );
    }
    Ok(())
}

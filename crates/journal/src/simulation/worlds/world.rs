//! One world: a journal, its disk, and what was answered so far.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::sync::oneshot;

use super::{
    super::{Counts, Faults, LyingDisk},
    model::{LOGS, Model, Put, Shelf},
};
use crate::{
    JournalBuilder, JournalError, Log, OpenError, Row, checkpoint::Checkpoint, wal::Full, writer::Writer,
};

const KEYS: u64 = 12;

type Answer = Pin<Box<dyn Future<Output = Result<u64, JournalError>>>>;

pub(super) struct World {
    random: fastrand::Rng,
    disk: LyingDisk,
    /// What was answered with success.
    model: Model,
    /// The model before the last commit of this run of the journal.
    before: Model,
    /// The commits since the last success of which nobody knows whether they are on disk. At most one of
    /// them may be found.
    maybe: Vec<Vec<(usize, Put)>>,
    next_value: u64,
    history: Vec<String>,
}

/// A running journal, without threads.
pub(super) struct Process {
    logs: (Log<Shelf<0>>, Log<Shelf<1>>),
    writer: Writer,
    checkpoint: Checkpoint,
    full: Option<Full>,
    waiting: Vec<(usize, Put, Answer)>,
    /// What goes to the second log when a command of the first is decided, behind what waits there.
    companions: Vec<(usize, Put, Answer)>,
}

impl Process {
    pub(super) fn open(disk: &LyingDisk) -> Result<Self, OpenError> {
        let mut journal = JournalBuilder::open_simulated(disk)?;
        let logs = (journal.add(Shelf::default())?, journal.add(Shelf::default())?);
        let (writer, checkpoint) = journal.parts();
        Ok(Self { logs, writer, checkpoint, full: None, waiting: Vec::new(), companions: Vec::new() })
    }

    pub(super) fn values(&self) -> Model {
        Model { values: [self.logs.0.state().values(), self.logs.1.state().values()] }
    }

    pub(super) fn submit(&mut self, log: usize, put: Put) {
        let logs = self.logs.clone();
        let command = put.clone();
        let mut answer: Answer = Box::pin(async move {
            if log == 0 { logs.0.submit(command).await } else { logs.1.submit(command).await }
        });
        assert_eq!(poll(&mut answer), None, "nothing is answered before it is committed");
        self.waiting.push((log, put, answer));
    }

    /// Submits to the first log, and has another put go to the second log in the same commit.
    pub(super) fn submit_with(&mut self, put: Put, companion: Put) {
        let (first, second) = self.logs.clone();
        let (command, entered) = (put.clone(), companion.clone());
        let (stored, wait) = oneshot::channel();
        let decided = move |_: &u64| second.enter(entered, |result| drop(stored.send(result)));
        let mut answer: Answer = Box::pin(async move { first.submit_with(command, decided).await });
        assert_eq!(poll(&mut answer), None, "nothing is answered before it is committed");
        self.waiting.push((0, put, answer));
        let wait: Answer = Box::pin(async move { wait.await.expect("whoever enters is answered") });
        self.companions.push((1, companion, wait));
    }
}

impl Process {
    /// Commits what waits, and gives what was put and whether all of it succeeded. `None` if nothing waits.
    pub(super) fn commit(&mut self) -> Option<(Vec<(usize, Put)>, bool)> {
        self.writer.commit_waiting();
        let mut puts = Vec::new();
        let mut succeeded = None;
        for (log, put, mut answer) in self.waiting.drain(..).chain(self.companions.drain(..)) {
            let answer = poll(&mut answer).expect("a commit answers all who wait");
            assert_eq!(*succeeded.get_or_insert(answer.is_ok()), answer.is_ok(), "a commit is one");
            if let Err(error) = answer {
                assert!(matches!(error, JournalError::Write(_)), "{error}");
            }
            puts.push((log, put));
        }
        Some((puts, succeeded?))
    }

    /// Whether the journal takes its files for writable.
    pub(super) fn is_writable(&self) -> bool {
        self.logs.0.check_writable().is_ok()
    }

    /// Folds a full segment, and says whether it could. `None` if no segment is full.
    pub(super) fn fold(&mut self) -> Option<bool> {
        if self.full.is_none() {
            self.full = self.checkpoint.full.try_recv().ok();
        }
        let full = self.full.take()?;
        let folded = self.checkpoint.fold(&full).is_ok();
        if folded {
            self.checkpoint.release(full);
        } else {
            self.full = Some(full);
        }
        Some(folded)
    }
}

/// The numbers of a log's rows.
fn rows<const LOG: usize>(log: &Log<Shelf<LOG>>) -> Vec<Row> {
    log.read_rows(1, usize::MAX).unwrap().into_iter().map(|(row, _)| row).collect()
}

fn poll(answer: &mut Answer) -> Option<Result<u64, JournalError>> {
    match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = LyingDisk::new(random.u64(..));
        Self {
            random,
            disk,
            model: Model::default(),
            before: Model::default(),
            maybe: Vec::new(),
            next_value: 0,
            history: Vec::new(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.disk.counts()
    }

    pub(super) fn history(&self) -> &[String] {
        &self.history
    }

    pub(super) fn run(&mut self) {
        let lives = self.random.usize(1..6);
        for _ in 0..lives {
            self.live();
            self.disk.restart();
            self.note("the power is back");
            if self.random.u32(..4) == 0 {
                self.rot();
            }
        }
        let process = self.open().expect("the power stays on");
        self.judge(&process);
    }

    fn note(&mut self, what: impl Into<String>) {
        let what = what.into();
        if std::env::var_os("LONJA_SEED").is_some() {
            println!("{what}");
        }
        self.history.push(what);
    }

    /// Starts and works until the power goes.
    fn live(&mut self) {
        self.disk.cut_after(self.random.u64(..400));
        let mut process = self.start();
        while let Some(running) = &mut process {
            if self.disk.is_off() {
                return;
            }
            match self.random.u32(..100) {
                0..40 => self.submit(running),
                40..75 => self.commit(running),
                75..92 => self.fold(running),
                92..96 => self.break_or_mend(),
                96..98 => {
                    self.note("kill");
                    self.disk.kill();
                    drop(process.take());
                    process = self.start();
                }
                _ => {
                    if let Some(running) = process.take() {
                        self.close(running);
                    }
                    process = self.start();
                }
            }
        }
    }

    /// Opens the journal, at times on a bad disk first, and judges what is in it. `None` if the power goes
    /// meanwhile.
    fn start(&mut self) -> Option<Process> {
        if self.random.u32(..4) == 0 {
            self.disk.set_faults(Faults {
                short_writes: 10,
                failed_syncs: 10,
                full: true,
                ..Faults::default()
            });
            match Process::open(&self.disk) {
                Ok(process) => self.judge(&process),
                Err(OpenError::Unusable(..)) => {}
                Err(_) if self.disk.is_off() => {}
                Err(error) => panic!("a bad disk is taken for damage: {error}"),
            }
            self.disk.kill();
        }
        self.disk.set_faults(Faults::default());
        let process = self.open()?;
        self.judge(&process);
        // What was found at a start stays.
        self.model = process.values();
        self.before = self.model.clone();
        self.maybe.clear();
        Some(process)
    }

    fn open(&mut self) -> Option<Process> {
        match Process::open(&self.disk) {
            Ok(process) => Some(process),
            Err(_) if self.disk.is_off() => None,
            Err(error) => panic!("a disk that only lost power is refused: {error}"),
        }
    }

    fn is_allowed(&self, found: &Model) -> bool {
        self.model == *found || self.maybe.iter().any(|puts| self.model.with(puts) == *found)
    }

    fn judge(&self, process: &Process) {
        let found = process.values();
        assert!(self.is_allowed(&found), "found {found:?}, not {:?} nor with {:?}", self.model, self.maybe);
        for rows in [rows(&process.logs.0), rows(&process.logs.1)] {
            assert!(rows.windows(2).all(|pair| pair[0] + 1 == pair[1]), "rows without a gap: {rows:?}");
        }
    }

    fn submit(&mut self, process: &mut Process) {
        for _ in 0..self.random.usize(1..4) {
            match self.random.usize(..=LOGS) {
                LOGS => process.submit_with(self.put(), self.put()),
                log => process.submit(log, self.put()),
            }
        }
    }

    fn put(&mut self) -> Put {
        self.next_value += 1;
        let keys = (0..self.random.usize(1..4)).map(|_| self.random.u64(..KEYS)).collect();
        Put { keys, value: self.next_value, length: self.random.usize(..400) }
    }

    fn commit(&mut self, process: &mut Process) {
        let Some((puts, succeeded)) = process.commit() else { return };
        self.note(format!("commit of {}: {succeeded}", puts.len()));
        assert_eq!(process.is_writable(), succeeded);
        if succeeded {
            let after = self.model.with(&puts);
            self.before = std::mem::replace(&mut self.model, after);
            self.maybe.clear();
        } else {
            self.maybe.push(puts);
        }
        assert_eq!(process.values(), self.model, "who reads sees what is durable, and all of it");
    }

    fn fold(&mut self, process: &mut Process) {
        let Some(folded) = process.fold() else { return };
        self.note(format!("fold: {folded}"));
        assert_eq!(process.values(), self.model);
    }

    fn break_or_mend(&mut self) {
        let faults = match self.random.u32(..5) {
            0 => Faults { short_writes: 30, ..Faults::default() },
            1 => Faults { failed_syncs: 30, ..Faults::default() },
            2 => Faults { short_writes: 10, failed_syncs: 10, full: true, ..Faults::default() },
            _ => Faults::default(),
        };
        self.note(format!("{faults:?}"));
        self.disk.set_faults(faults);
    }

    fn close(&mut self, mut process: Process) {
        self.commit(&mut process);
        self.note("close");
        let Process { writer, checkpoint, full, .. } = process;
        let waiting = full.into_iter();
        writer.finish();
        for full in waiting.chain(checkpoint.full.try_iter()) {
            // A journal that cannot fold while it closes leaves its segments for the next start.
            if checkpoint.fold(&full).is_err() {
                return;
            }
            checkpoint.release(full);
        }
    }

    /// A copy of the disk with one wrong bit gives what is right, or is refused in one line. A wrong bit
    /// in the last frame of the write-ahead log is the exception: such a frame looks as if the power had
    /// gone while it was written.
    fn rot(&mut self) {
        let Some((path, at)) = self.disk.any_byte() else { return };
        let refused = match Process::open(&self.disk.with_rot(&path, at)) {
            Ok(process) => {
                let found = process.values();
                let is_right = self.is_allowed(&found)
                    || (found == self.before && path.extension().is_some_and(|name| name != "redb"));
                assert!(
                    is_right,
                    "byte {at} of {} is wrong and nobody says so: {found:?}, not {:?} after {:?}",
                    path.display(),
                    self.model,
                    self.before
                );
                return;
            }
            Err(error) => error.to_string(),
        };
        self.note(format!("rot at {at} of {}: {refused}", path.display()));
        assert_eq!(refused.lines().count(), 1, "{refused}");
    }
}

//! The line that each operation leaves on standard output. A slow reader of that output
//! never holds up a request: what does not fit the buffer is dropped and counted.

use std::{
    io::{self, Write as _},
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

/// Bytes that may wait for the reader of standard output.
const CAPACITY: usize = 1 << 20;
/// How long the last lines may take to be written.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long lines are collected before they are written together.
const GATHER: Duration = Duration::from_millis(5);

/// Where lines go. Clones share one buffer and one writing thread.
#[derive(Debug, Clone)]
pub struct OperationLog {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    buffer: Mutex<Buffer>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Buffer {
    lines: String,
    closed: bool,
    finished: bool,
}

/// Writes the lines; [`OperationLogWriter::finish`] sees the last of them out.
#[derive(Debug)]
pub struct OperationLogWriter {
    shared: Option<Arc<Shared>>,
}

impl OperationLog {
    /// A log that keeps nothing.
    #[must_use]
    pub fn off() -> Self {
        Self { shared: None }
    }

    /// A log that writes to standard output from a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn to_stdout() -> io::Result<(Self, OperationLogWriter)> {
        let shared = Arc::new(Shared::default());
        thread::Builder::new().name("operation-log".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || write_lines(&shared)
        })?;
        let writer = OperationLogWriter { shared: Some(Arc::clone(&shared)) };
        Ok((Self { shared: Some(shared) }, writer))
    }

    /// Whether lines go anywhere.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    /// Adds a line, which `write` appends without its line break.
    pub fn line(&self, write: impl FnOnce(&mut String)) {
        let Some(shared) = &self.shared else { return };
        let mut buffer = shared.buffer.lock();
        if buffer.lines.len() >= CAPACITY {
            drop(buffer);
            metrics::counter!("lonja_operation_log_dropped_total").increment(1);
            return;
        }
        let was_empty = buffer.lines.is_empty();
        write(&mut buffer.lines);
        buffer.lines.push('\n');
        drop(buffer);
        if was_empty {
            shared.filled.notify_all();
        }
    }
}

impl OperationLogWriter {
    /// A writer beside [`OperationLog::off`].
    #[must_use]
    pub fn off() -> Self {
        Self { shared: None }
    }

    /// Writes what is left and ends the thread. A reader that does not read is waited
    /// for a second at most; the end of the process then ends the thread.
    pub fn finish(mut self) {
        let Some(shared) = self.shared.take() else { return };
        let mut buffer = shared.buffer.lock();
        buffer.closed = true;
        shared.filled.notify_all();
        let finished = |buffer: &mut Buffer| !buffer.finished;
        shared.filled.wait_while_for(&mut buffer, finished, FAREWELL);
    }
}

fn write_lines(shared: &Shared) {
    let mut lines = String::new();
    loop {
        let mut buffer = shared.buffer.lock();
        while buffer.lines.is_empty() && !buffer.closed {
            shared.filled.wait(&mut buffer);
        }
        if !buffer.closed {
            drop(buffer);
            thread::sleep(GATHER);
            buffer = shared.buffer.lock();
        }
        std::mem::swap(&mut lines, &mut buffer.lines);
        let closed = buffer.closed;
        drop(buffer);
        let mut stdout = io::stdout().lock();
        // Whoever read the output may have gone; the index goes on without.
        let _ = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush());
        lines.clear();
        if closed {
            shared.buffer.lock().finished = true;
            shared.filled.notify_all();
            return;
        }
    }
}

//! The line that each operation leaves on standard output. A slow reader of that output
//! never holds up a request: what does not fit the buffer is dropped and counted.
//!
//! `tracing_appender` does the same, except that a process could not end while nobody reads standard
//! output: the guard prints there that its writer did not end in time.

use std::{
    io::{self, Write as _},
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

/// How many bytes may wait for the reader of standard output; a line that comes then is dropped.
const CAPACITY: usize = 1 << 20;
/// How long [`OperationLogWriter::finish`] waits until the last lines are written.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long lines are collected before they are written together.
const GATHER: Duration = Duration::from_millis(5);

/// A log to which services add lines. Clones share one buffer and one writing thread.
#[derive(Debug, Clone)]
pub struct OperationLog {
    shared: Option<Arc<SharedLines>>,
}

#[derive(Debug, Default)]
struct SharedLines {
    buffer: Mutex<Buffer>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Buffer {
    lines: String,
    closed: bool,
    finished: bool,
}

/// The owner of the writing thread. [`OperationLogWriter::finish`] has the last lines written.
#[derive(Debug)]
pub struct OperationLogWriter {
    shared: Option<Arc<SharedLines>>,
}

impl OperationLog {
    /// Makes a log that drops every line.
    #[must_use]
    pub fn off() -> Self {
        Self { shared: None }
    }

    /// Makes a log that writes to standard output from a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn to_stdout() -> io::Result<(Self, OperationLogWriter)> {
        let shared = Arc::new(SharedLines::default());
        thread::Builder::new().name("operation-log".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || write_lines(&shared)
        })?;
        let writer = OperationLogWriter { shared: Some(Arc::clone(&shared)) };
        Ok((Self { shared: Some(shared) }, writer))
    }

    /// Whether this log writes its lines; a log from [`OperationLog::off`] does not.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.shared.is_some()
    }

    /// Adds a line. `write` appends the text of the line without its line break. While the buffer
    /// is full, the line is dropped and counted, and `write` is not called.
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
    /// Makes the writer that belongs to [`OperationLog::off`] and has nothing to write.
    #[must_use]
    pub fn off() -> Self {
        Self { shared: None }
    }

    /// Writes the lines that are left and ends the thread. If nobody reads standard output, this
    /// waits for a second at most, and the thread ends with the process.
    pub fn finish(mut self) {
        let Some(shared) = self.shared.take() else { return };
        let mut buffer = shared.buffer.lock();
        buffer.closed = true;
        shared.filled.notify_all();
        let finished = |buffer: &mut Buffer| !buffer.finished;
        shared.filled.wait_while_for(&mut buffer, finished, FAREWELL);
    }
}

fn write_lines(shared: &SharedLines) {
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
        // The reader of the output may have gone; the index goes on without a reader.
        let _ = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush());
        lines.clear();
        if closed {
            shared.buffer.lock().finished = true;
            shared.filled.notify_all();
            return;
        }
    }
}

//! Shows a person how far a copy is.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How many times a second the bar is drawn.
const RATE: u8 = 10;

/// A progress bar on standard error, or nothing if standard error is no terminal.
#[derive(Debug, Clone)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A progress that shows nothing.
    #[must_use]
    pub fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    /// A progress bar if standard error is a terminal, else a progress that shows nothing.
    #[must_use]
    pub fn on_terminal() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::hidden();
        }
        Self(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(RATE)))
    }

    /// Begins the bar of a copy that will have `size` bytes, if that is known, and has `there`
    /// bytes already.
    pub fn begin(&self, size: Option<u64>, there: u64) {
        let style = match size {
            Some(size) => {
                self.0.set_length(size);
                "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left"
            }
            None => "{spinner} {bytes} {bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(style) {
            self.0.set_style(style);
        }
        self.0.set_position(there);
        self.0.reset_eta();
        self.0.enable_steady_tick(Duration::from_secs(1) / u32::from(RATE));
    }

    /// Moves the bar on by `bytes` bytes.
    pub fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Shows that every byte is there and that the copy is being verified.
    pub fn check(&self) {
        if let Ok(style) = ProgressStyle::with_template("{spinner} {bytes} there, verifying") {
            self.0.set_style(style);
        }
    }

    /// Removes the bar, because the copy is over.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}

//! How far a copy is, for whoever looks.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Times a second that it is drawn.
const RATE: u8 = 10;

/// A bar on standard error, where that is a terminal.
#[derive(Debug, Clone)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Nothing is shown.
    #[must_use]
    pub fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    /// A bar if there is a terminal to draw it on.
    #[must_use]
    pub fn on_terminal() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::hidden();
        }
        Self(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(RATE)))
    }

    /// So many bytes are to come, if that is known, and so many are there already.
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

    /// More bytes are there.
    pub fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Every byte is there, and is compared with what was announced.
    pub fn check(&self) {
        if let Ok(style) = ProgressStyle::with_template("{spinner} {bytes} there, verifying") {
            self.0.set_style(style);
        }
    }

    /// It is over; the bar goes away.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}

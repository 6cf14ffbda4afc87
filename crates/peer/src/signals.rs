//! Signals: Ctrl-C, and signals that tell the process to end.

use std::{io, thread};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGINT, which Ctrl-C sends.
    Interrupt,
    /// SIGTERM or SIGHUP, as a number: the process is to end.
    End(i32),
}

/// Calls `handle` for each signal, on a thread that runs until the process ends.
///
/// # Errors
/// When signals cannot be handled.
pub(crate) fn on_signal(mut handle: impl FnMut(Signal) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            handle(match signal {
                SIGINT => Signal::Interrupt,
                number => Signal::End(number),
            });
        }
    })?;
    Ok(())
}

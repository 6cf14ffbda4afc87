//! Ctrl-C, and being told to end.

use std::{io, thread};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// The end; its number.
    End(i32),
}

/// Calls a function for each signal, on a thread of its own that ends with the process.
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

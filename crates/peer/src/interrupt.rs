//! Stopping what is under way from another thread: Ctrl-C, or the end of a server.

use std::{
    io,
    net::{Shutdown, TcpStream},
    sync::Arc,
};

use parking_lot::Mutex;

/// Stops waits on the sockets that it watches. Clones are one.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    raised: bool,
    next: u64,
    sockets: Vec<(u64, TcpStream)>,
}

/// A socket is watched for as long as this lives.
#[derive(Debug)]
pub struct Watched {
    interrupt: Interrupt,
    number: u64,
}

impl Interrupt {
    /// Ends every read and write on a watched socket, those to come too.
    pub fn raise(&self) {
        let mut state = self.0.lock();
        state.raised = true;
        for (_, socket) in &state.sockets {
            // It may have ended by itself.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Whether it has been raised since the last [`Self::reset`].
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.lock().raised
    }

    /// Makes it ready for the next command.
    pub fn reset(&self) {
        self.0.lock().raised = false;
    }

    /// Watches a socket.
    ///
    /// # Errors
    /// [`io::ErrorKind::Interrupted`] when it is raised; or no descriptor is left.
    pub fn watch(&self, socket: &TcpStream) -> io::Result<Watched> {
        let socket = socket.try_clone()?;
        let mut state = self.0.lock();
        if state.raised {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let number = state.next;
        state.next += 1;
        state.sockets.push((number, socket));
        Ok(Watched { interrupt: self.clone(), number })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.interrupt.0.lock().sockets.retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, net::TcpListener, thread};

    use super::*;

    #[test]
    fn a_read_ends_and_none_begins() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let interrupt = Interrupt::default();
        let watched = interrupt.watch(&socket).unwrap();
        thread::scope(|scope| {
            let read = scope.spawn(|| socket.read(&mut [0; 1]).unwrap());
            interrupt.raise();
            assert_eq!(read.join().unwrap(), 0);
        });
        drop(watched);
        assert_eq!(interrupt.watch(&socket).unwrap_err().kind(), io::ErrorKind::Interrupted);
        interrupt.reset();
        assert!(interrupt.watch(&socket).is_ok() && !interrupt.is_raised());
    }
}

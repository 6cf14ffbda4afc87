//! Stops what is under way on sockets from another thread, on Ctrl-C or at the end of a server.

use std::{
    io,
    net::{Shutdown, TcpStream},
    sync::Arc,
};

use parking_lot::Mutex;

/// Ends waits on the sockets that it watches. A clone shares its state with the original.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    state: Arc<Mutex<State>>,
    parent: Option<Box<Self>>,
}

#[derive(Debug, Default)]
struct State {
    raised: bool,
    next: u64,
    sockets: Vec<(u64, TcpStream)>,
}

/// A guard: its interrupt watches a socket until the guard is dropped.
#[derive(Debug)]
pub struct Watched {
    state: Arc<Mutex<State>>,
    number: u64,
    _by_parent: Option<Box<Self>>,
}

impl Interrupt {
    /// An interrupt that can be raised alone, and that counts as raised while this interrupt is
    /// raised.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { state: Arc::default(), parent: Some(Box::new(self.clone())) }
    }

    /// Shuts down every watched socket, so that present and later reads and writes on it end.
    pub fn raise(&self) {
        let mut state = self.state.lock();
        state.raised = true;
        for (_, socket) in &state.sockets {
            // The connection may have ended by itself.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Whether this interrupt, or the interrupt that it is a child of, has been raised since its
    /// last [`Self::reset`].
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.state.lock().raised || self.parent.as_ref().is_some_and(|parent| parent.is_raised())
    }

    /// Makes the interrupt ready for the next command.
    pub fn reset(&self) {
        self.state.lock().raised = false;
    }

    /// Watches a socket until the guard that is returned is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::Interrupted`] when the interrupt is raised; another error when no
    /// descriptor is left.
    pub fn watch(&self, socket: &TcpStream) -> io::Result<Watched> {
        let by_parent = self.parent.as_ref().map(|parent| parent.watch(socket)).transpose()?;
        let socket = socket.try_clone()?;
        let mut state = self.state.lock();
        if state.raised {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let number = state.next;
        state.next += 1;
        state.sockets.push((number, socket));
        Ok(Watched { state: Arc::clone(&self.state), number, _by_parent: by_parent.map(Box::new) })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.state.lock().sockets.retain(|(number, _)| *number != self.number);
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

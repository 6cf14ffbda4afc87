//! Stopping what is under way from another thread: Ctrl-C, or the end of a server.

use std::{
    io,
    net::{Shutdown, TcpStream},
    sync::Arc,
};

use parking_lot::Mutex;

/// Stops waits on the sockets that it watches. Clones are one.
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

/// A socket is watched for as long as this lives.
#[derive(Debug)]
pub struct Watched {
    state: Arc<Mutex<State>>,
    number: u64,
    _by_parent: Option<Box<Self>>,
}

impl Interrupt {
    /// One of its own that this one raises too.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { state: Arc::default(), parent: Some(Box::new(self.clone())) }
    }

    /// Ends every read and write on a watched socket, those to come too.
    pub fn raise(&self) {
        let mut state = self.state.lock();
        state.raised = true;
        for (_, socket) in &state.sockets {
            // It may have ended by itself.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Whether it has been raised since the last [`Self::reset`].
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.state.lock().raised || self.parent.as_ref().is_some_and(|parent| parent.is_raised())
    }

    /// Makes it ready for the next command.
    pub fn reset(&self) {
        self.state.lock().raised = false;
    }

    /// Watches a socket.
    ///
    /// # Errors
    /// [`io::ErrorKind::Interrupted`] when it is raised; or no descriptor is left.
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

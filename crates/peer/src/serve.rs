//! Serving files to other peers (docs/protocol.md 6).

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use lonja_wire::{
    Filename, get_file,
    get_part::{self, Head, Part},
    reply,
};
use parking_lot::{Condvar, Mutex};
#[cfg(target_os = "linux")]
use rustix::io::retry_on_intr;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::sockopt::set_socket_linger,
};

use crate::{
    interrupt::Interrupt,
    shared::{OpenError, SharedFiles},
};

/// The largest number of callers that are served at one time; others wait for their turn.
const CALLERS: usize = 64;
/// The size of the stack of a thread that serves a caller, in bytes.
const STACK: usize = 256 << 10;
/// How long a caller may take to send its request.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a caller may take no byte of the reply.
const STALL: Duration = Duration::from_secs(20);
/// The longest wait for a caller to take more bytes, before the deadlines and the stop are checked.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
/// How many bytes a caller must have taken for each second past [`PATIENCE`]; a slower caller is
/// cut off.
const SLOWEST: u64 = 1024;
/// How long a file may be sent before the caller's rate is checked against [`SLOWEST`].
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a caller may take to close the connection after everything was sent.
const LINGER: Duration = Duration::from_secs(2);
/// The largest number of bytes that are sent between two checks of the deadlines.
const PIECE: u64 = 1 << 20;
/// How long to wait after a connection could not be accepted, most likely for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A server that serves files to other peers until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    service: Arc<Service>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Service {
    shared: Arc<SharedFiles>,
    stop: Interrupt,
    callers: Mutex<usize>,
    fewer: Condvar,
}

impl Server {
    /// Listens at `bind` and begins to serve the files of `shared`.
    ///
    /// # Errors
    /// When the address cannot be listened on, or no thread can be started.
    pub fn start(bind: SocketAddr, shared: Arc<SharedFiles>) -> io::Result<Self> {
        let listener = TcpListener::bind(bind)?;
        let address = listener.local_addr()?;
        let service = Arc::new(Service {
            shared,
            stop: Interrupt::default(),
            callers: Mutex::default(),
            fewer: Condvar::new(),
        });
        let serving = Arc::clone(&service);
        let accepting = thread::Builder::new()
            .name("accept".to_owned())
            .spawn(move || accept_until_stopped(&listener, &serving))?;
        Ok(Self { address, service, accepting: Some(accepting) })
    }

    /// The address at which the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.service.stop.raise();
        {
            // The lock makes sure that a thread that waits for a place has seen the stop, or is
            // notified now.
            let _callers = self.service.callers.lock();
            self.service.fewer.notify_all();
        }
        // A connection wakes the thread that accepts.
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        let woken = TcpStream::connect_timeout(&address, LINGER);
        if let Some(accepting) = self.accepting.take()
            && woken.is_ok()
        {
            // The thread does not panic, and there is nobody to tell.
            let _ = accepting.join();
        }
        self.service.shared.join();
    }
}

fn accept_until_stopped(listener: &TcpListener, service: &Arc<Service>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while !service.stop.is_raised() {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(_) => {
                thread::sleep(PAUSE);
                continue;
            }
        };
        if !service.enter() {
            break;
        }
        let serving = Arc::clone(service);
        let caller = thread::Builder::new().name("caller".to_owned()).stack_size(STACK).spawn(move || {
            let _place = Place(&serving);
            // The caller sees the end of its connection, and there is nobody else to tell of an
            // error.
            let _ = serving.serve(stream);
        });
        match caller {
            Ok(caller) => threads.push(caller),
            Err(_) => service.leave(),
        }
        threads.retain(|thread| !thread.is_finished());
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// The place of a caller among [`CALLERS`], which is given back on drop.
struct Place<'a>(&'a Service);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Service {
    /// Waits for a place for a caller, and takes it. False once the server stops.
    fn enter(&self) -> bool {
        let mut callers = self.callers.lock();
        while *callers >= CALLERS && !self.stop.is_raised() {
            self.fewer.wait_for(&mut callers, STALL);
        }
        *callers += 1;
        !self.stop.is_raised()
    }

    fn leave(&self) {
        *self.callers.lock() -= 1;
        self.fewer.notify_one();
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(STALL))?;
        let asked = {
            let _watched = self.stop.watch(&stream)?;
            read_request(&stream)?
        };
        // The caller takes the end of the stream for the end of the file. So a connection that ends
        // before everything is sent must end with a reset.
        set_socket_linger(&stream, Some(Duration::ZERO))?;
        match asked {
            Some(Asked::File(filename)) => self.send_file(&stream, &filename)?,
            Some(Asked::Part(part)) => self.send_part(&stream, &part)?,
            Some(Asked::Other) => send_status(&stream, get_file::STATUS_FAILED)?,
            None => {}
        }
        set_socket_linger(&stream, None)?;
        linger(&stream)
    }

    fn send_file(&self, stream: &TcpStream, filename: &Filename) -> io::Result<()> {
        match self.shared.open(filename) {
            Ok(opened) => {
                send_status(stream, 0)?;
                // The reply names no size, so the file is sent up to the end that it has by then.
                self.send(stream, &opened.file, 0, u64::MAX)
            }
            Err(error) => send_status(stream, status(&error)),
        }
    }

    fn send_part(&self, stream: &TcpStream, part: &Part) -> io::Result<()> {
        // "Any other failure" would be taken for the answer of an original peer.
        let not_yet = || send_status(stream, get_part::STATUS_NOT_YET);
        let opened = match self.shared.open(&part.filename) {
            Ok(opened) => opened,
            Err(OpenError::NoFile) => return send_status(stream, get_file::STATUS_NO_FILE),
            Err(OpenError::Io(_)) => return not_yet(),
        };
        let Ok(file) = opened.file.try_clone() else { return not_yet() };
        let (size, modified) = (opened.size, opened.modified);
        let Ok(Some(tree)) = self.shared.hash(&part.filename, opened, &self.stop) else { return not_yet() };
        let head = Head { size, modified, hash: *tree.hash.as_bytes() };
        let mut bytes = vec![reply::status(0)];
        bytes.extend_from_slice(&head.encode());
        (&*stream).write_all(&bytes)?;
        if part.offset == get_part::OFFSET_OF_VALUES {
            let values = if head.blocks() == 0 { &[] } else { tree.values() };
            return self.send_values(stream, values);
        }
        self.send(stream, &file, part.offset, head.bytes_of(part.offset, part.length))
    }

    /// Sends the values of a file's blocks.
    fn send_values(&self, stream: &TcpStream, values: &[u8]) -> io::Result<()> {
        self.send_at_once(stream, values.len() as u64, |sent, length| {
            let rest = usize::try_from(sent).ok().and_then(|sent| values.get(sent..)).unwrap_or_default();
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
            (&*stream).write(&rest[..length]).map(|written| written as u64)
        })
    }

    /// Sends `length` bytes from `offset` on, or fewer if the file ends before.
    fn send(&self, stream: &TcpStream, file: &File, offset: u64, length: u64) -> io::Result<()> {
        self.send_at_once(stream, length, |sent, length| send_piece(stream, file, offset + sent, length))
    }

    /// Sends `length` bytes by `piece`, which is told how many have been sent and how many it may send.
    fn send_at_once(
        &self,
        stream: &TcpStream,
        length: u64,
        piece: impl Fn(u64, u64) -> io::Result<u64>,
    ) -> io::Result<()> {
        // On a blocking socket, sending one piece could last until a slow caller has taken all of
        // it.
        stream.set_nonblocking(true)?;
        self.send_pieces(stream, length, piece)?;
        stream.set_nonblocking(false)
    }

    fn send_pieces(
        &self,
        stream: &TcpStream,
        length: u64,
        piece: impl Fn(u64, u64) -> io::Result<u64>,
    ) -> io::Result<()> {
        let begin = Instant::now();
        let mut progress = begin;
        let mut sent = 0;
        while sent < length {
            match piece(sent, PIECE.min(length - sent)) {
                Ok(0) => return Ok(()),
                Ok(more) => {
                    sent += more;
                    progress = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && progress.elapsed() < STALL => {
                    wait_for_room(stream)?;
                }
                Err(error) => return Err(error),
            }
            if self.stop.is_raised() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if let Some(late) = begin.elapsed().checked_sub(PATIENCE)
                && sent < late.as_secs() * SLOWEST
            {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }
}

fn status(error: &OpenError) -> u8 {
    match error {
        OpenError::NoFile => get_file::STATUS_NO_FILE,
        OpenError::Io(_) => get_file::STATUS_FAILED,
    }
}

fn send_status(mut stream: &TcpStream, status: u8) -> io::Result<()> {
    stream.write_all(&[reply::status(status)])
}

/// Waits until more can be sent, for [`LOOK`] at most.
fn wait_for_room(stream: &TcpStream) -> io::Result<()> {
    let mut wanted = [PollFd::new(stream, PollFlags::OUT)];
    match poll(&mut wanted, Some(&LOOK)) {
        // The wait was interrupted by a signal, which another thread handles.
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sends a piece of a file by sendfile, without copying the bytes to this process.
#[cfg(target_os = "linux")]
fn send_piece(stream: &TcpStream, file: &File, mut offset: u64, length: u64) -> io::Result<u64> {
    // The length is at most `PIECE`.
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    Ok(retry_on_intr(|| rustix::fs::sendfile(stream, file, Some(&mut offset), length))? as u64)
}

#[cfg(not(target_os = "linux"))]
fn send_piece(mut stream: &TcpStream, file: &File, offset: u64, length: u64) -> io::Result<u64> {
    let mut piece = [0; 64 << 10];
    let most = usize::try_from(length).unwrap_or(usize::MAX).min(piece.len());
    let read = std::os::unix::fs::FileExt::read_at(file, &mut piece[..most], offset)?;
    Ok(stream.write(&piece[..read])? as u64)
}

enum Asked {
    File(Filename),
    Part(Part),
    Other,
}

/// Reads what the caller asks for; `None` if the caller closes without asking.
fn read_request(mut stream: &TcpStream) -> io::Result<Option<Asked>> {
    let end = Instant::now() + REQUEST;
    let mut bytes = Vec::new();
    loop {
        let Some(left) = end.checked_duration_since(Instant::now()) else { return Ok(Some(Asked::Other)) };
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut piece = [0; 512];
        match stream.read(&mut piece) {
            Ok(0) if bytes.is_empty() => return Ok(None),
            // A request that ends in the middle is answered as well.
            Ok(0) => return Ok(Some(Asked::Other)),
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(Asked::Other)),
            // The wait was interrupted by a signal, which another thread handles.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        match get_file::decode(&bytes) {
            get_file::Progress::Complete(filename) => return Ok(Some(Asked::File(filename))),
            get_file::Progress::Bad(_) => return Ok(Some(Asked::Other)),
            get_file::Progress::Incomplete => {}
            get_file::Progress::UnknownOperation => match get_part::decode(&bytes) {
                get_part::Progress::Complete(part) => return Ok(Some(Asked::Part(part))),
                get_part::Progress::Incomplete => {}
                get_part::Progress::UnknownOperation | get_part::Progress::Bad(_) => {
                    return Ok(Some(Asked::Other));
                }
            },
        }
        if bytes.len() > get_file::MAX_REQUEST.max(get_part::MAX_REQUEST) {
            return Ok(Some(Asked::Other));
        }
    }
}

/// Closes the connection so that what was sent arrives, even if the caller has sent more than was
/// read.
fn linger(mut stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.set_read_timeout(Some(LINGER))?;
    let end = Instant::now() + LINGER;
    while Instant::now() < end && stream.read(&mut [0; 512])? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    struct Served {
        server: Server,
        shared: Arc<SharedFiles>,
        directory: TempDir,
    }

    fn serve(files: &[(&str, &[u8])]) -> Served {
        let directory = TempDir::new().unwrap();
        let shared = Arc::new(SharedFiles::new(directory.path()).unwrap());
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
            shared.publish(&name.parse().unwrap());
        }
        let server = Server::start("127.0.0.1:0".parse().unwrap(), Arc::clone(&shared)).unwrap();
        Served { server, shared, directory }
    }

    fn ask(served: &Served, pieces: &[&[u8]]) -> Vec<u8> {
        let mut stream = TcpStream::connect(served.server.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        for piece in pieces {
            stream.write_all(piece).unwrap();
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    fn part(filename: &str, offset: u64, length: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        Part { filename: filename.parse().unwrap(), offset, length }.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_file_is_sent_to_original_peers() {
        let served = serve(&[("hello.txt", b"hello"), ("empty", b"")]);
        assert_eq!(ask(&served, &[b"GET_FILE\0", b"hello.txt\0"]), b"0hello");
        assert_eq!(ask(&served, &[b"GET_FILE\0empty\0"]), b"0");
        let mut padded = b"GET_FILE\0hello.txt".to_vec();
        padded.resize(9 + 256, 0);
        assert_eq!(ask(&served, &[&padded]), b"0hello");
        assert_eq!(ask(&served, &[b"GET_FILE\0other.txt\0"]), b"1");
        assert_eq!(ask(&served, &[b"GET_FILE\0\0"]), b"2");
        assert_eq!(ask(&served, &[b"PUT_FILE\0hello.txt\0"]), b"2");
    }

    #[test]
    fn a_part_is_sent_with_what_the_file_is() {
        let served = serve(&[("hello.txt", b"hello")]);
        for (offset, length, bytes) in
            [(0, u64::MAX, "hello"), (1, 3, "ell"), (5, 9, ""), (9, 9, ""), (0, 0, "")]
        {
            let answer = ask(&served, &[&part("hello.txt", offset, length)]);
            assert_eq!(answer[0], b'0');
            let head = Head::decode(answer[1..=get_part::HEAD].try_into().unwrap());
            assert_eq!((head.size, head.hash), (5, *blake3::hash(b"hello").as_bytes()));
            assert!(head.modified > 1_700_000_000);
            assert_eq!(&answer[1 + get_part::HEAD..], bytes.as_bytes());
        }
        assert_eq!(ask(&served, &[&part("other.txt", 0, 1)]), b"1");
    }

    #[test]
    fn the_example_of_the_protocol() {
        // docs/protocol.md 6.1.
        let served = serve(&[("hello.txt", b"hello")]);
        let request = b"GET_PART\0hello.txt\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff";
        assert_eq!(part("hello.txt", 0, u64::MAX), request);
        let answer = ask(&served, &[request]);
        assert_eq!(&answer[..9], b"0\0\0\0\0\0\0\0\x05");
        let hash = "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f";
        assert_eq!(blake3::Hash::from_slice(&answer[17..49]).unwrap().to_hex().as_str(), hash);
        assert_eq!(&answer[49..], b"hello");
    }

    #[test]
    fn what_is_withdrawn_or_gone_is_not_sent() {
        let served = serve(&[("a", b"a"), ("b", b"b")]);
        served.shared.withdraw("a");
        fs::remove_file(served.directory.path().join("b")).unwrap();
        assert_eq!(ask(&served, &[b"GET_FILE\0a\0"]), b"1");
        assert_eq!(ask(&served, &[b"GET_FILE\0b\0"]), b"1");
    }

    #[test]
    fn more_callers_than_places_are_all_served_and_the_end_waits_for_none() {
        let served = serve(&[("a", &[7; 100_000])]);
        let silent: Vec<_> =
            (0..CALLERS / 2).map(|_| TcpStream::connect(served.server.address()).unwrap()).collect();
        thread::scope(|scope| {
            for _ in 0..2 * CALLERS {
                scope.spawn(|| assert_eq!(ask(&served, &[b"GET_FILE\0a\0"]).len(), 100_001));
            }
        });
        let begin = Instant::now();
        drop(served);
        assert!(begin.elapsed() < REQUEST, "{:?}", begin.elapsed());
        drop(silent);
    }

    #[test]
    fn the_end_does_not_wait_for_a_caller_that_is_slow() {
        let served = serve(&[("a", &vec![7; 64 << 20])]);
        let mut stream = TcpStream::connect(served.server.address()).unwrap();
        stream.write_all(b"GET_FILE\0a\0").unwrap();
        let mut piece = [0; 4096];
        stream.read_exact(&mut piece).unwrap();
        let reading = thread::spawn(move || {
            loop {
                match stream.read(&mut piece) {
                    Ok(0) => return Ok(()),
                    // 200 kB a second are slow, but never a stall.
                    Ok(_) => thread::sleep(Duration::from_millis(20)),
                    Err(error) => return Err(error.kind()),
                }
            }
        });
        let begin = Instant::now();
        drop(served);
        assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
        assert_eq!(reading.join().unwrap(), Err(io::ErrorKind::ConnectionReset));
    }
}

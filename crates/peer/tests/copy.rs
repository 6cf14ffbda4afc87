//! Copies whose bytes are cut off or changed on their way, and files that are replaced by links
//! while they are opened.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use lonja_peer::{
    copy::{Copied, CopyError, Job},
    fetch::{FetchError, Source},
    interrupt::Interrupt,
    partial::Target,
    progress::Progress,
    serve::Server,
    shared::SharedFiles,
};
use lonja_wire::Filename;
use tempfile::TempDir;

const NAME: &str = "file";

fn name() -> Filename {
    NAME.parse().unwrap()
}

/// A peer that shares one file.
struct Sharing {
    server: Server,
    directory: TempDir,
}

impl Sharing {
    fn start(content: &[u8]) -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join(NAME), content).unwrap();
        let shared = SharedFiles::new(directory.path()).unwrap();
        shared.publish(&name());
        let server = Server::start((Ipv4Addr::LOCALHOST, 0).into(), Arc::new(shared)).unwrap();
        Self { server, directory }
    }
}

/// A directory to copy to, and the interrupt of the copies.
struct Place {
    directory: TempDir,
    interrupt: Interrupt,
}

impl Place {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap(), interrupt: Interrupt::default() }
    }

    fn copy(&self, sources: &[SocketAddr]) -> Result<Copied, CopyError> {
        let target = Target { path: self.directory.path().join("copy"), overwrite: false };
        let filename = name();
        let job = Job {
            filename: &filename,
            target: &target,
            interrupt: &self.interrupt,
            progress: &Progress::hidden(),
        };
        let sources: Vec<_> = sources
            .iter()
            .map(|address| Source { user: format!("peer at {}", address.port()), address: *address })
            .collect();
        job.copy_from_all(&sources)
    }

    fn copied(&self) -> Option<Vec<u8>> {
        fs::read(self.directory.path().join("copy")).ok()
    }
}

/// What a proxy does to the bytes that come from a peer.
trait Harm: Send + Sync + 'static {
    /// Changes `bytes`, of which the first is number `at` of all bytes that came. Gives how many of
    /// `bytes` still pass before the connection is cut.
    fn harm(&self, at: u64, bytes: &mut [u8]) -> usize;
}

/// A proxy between two peers, which counts the bytes that come from one of them.
struct Proxy {
    address: SocketAddr,
    passed: Arc<AtomicU64>,
}

impl Proxy {
    fn start(to: SocketAddr, harm: impl Harm) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let passed = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&passed);
        let harm = Arc::new(harm);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(to) else { continue };
                let (mut ask, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = std::io::copy(&mut ask, &mut to_server);
                    let _ = to_server.shutdown(Shutdown::Write);
                });
                let (counted, harm) = (Arc::clone(&counted), Arc::clone(&harm));
                thread::spawn(move || pass(server, client, &counted, &*harm));
            }
        });
        Self { address, passed }
    }
}

fn pass(mut server: TcpStream, mut client: TcpStream, passed: &AtomicU64, harm: &impl Harm) {
    let mut piece = [0; 16 << 10];
    while let Ok(read @ 1..) = server.read(&mut piece) {
        let at = passed.fetch_add(read as u64, Ordering::SeqCst);
        let keep = harm.harm(at, &mut piece[..read]);
        if client.write_all(&piece[..keep]).is_err() || keep < read {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

/// Cuts the connection once, when `at` bytes have come.
struct CutAt {
    at: u64,
    done: AtomicBool,
}

impl Harm for CutAt {
    fn harm(&self, at: u64, bytes: &mut [u8]) -> usize {
        let end = at + bytes.len() as u64;
        if (at..end).contains(&self.at) && !self.done.swap(true, Ordering::SeqCst) {
            return usize::try_from(self.at - at).unwrap();
        }
        bytes.len()
    }
}

/// Flips one bit of the byte with this number.
struct FlipAt(u64);

impl Harm for FlipAt {
    fn harm(&self, at: u64, bytes: &mut [u8]) -> usize {
        if let Some(byte) =
            self.0.checked_sub(at).and_then(|index| bytes.get_mut(usize::try_from(index).ok()?))
        {
            *byte ^= 1 << (self.0 % 8);
        }
        bytes.len()
    }
}

/// Bytes that look random, but are the same in each run.
fn bytes(seed: u8, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn a_hundred_cuts_are_each_resumed() {
    let size = 1 << 20;
    for round in 0..100 {
        let content = bytes(round, size);
        let sharing = Sharing::start(&content);
        let at = u64::from_be_bytes(*content.first_chunk().unwrap()) % size as u64;
        let proxy = Proxy::start(sharing.server.address(), CutAt { at, done: AtomicBool::new(false) });
        let place = Place::new();
        let copied = place.copy(&[proxy.address]).unwrap();
        assert_eq!(copied.hash, Some(blake3::hash(&content)), "cut {round} at {at}");
        assert_eq!(place.copied().unwrap(), content);
        // Bytes that had come before the cut did not come again, except for bytes on their way at
        // the cut.
        let passed = proxy.passed.load(Ordering::SeqCst);
        assert!(passed < size as u64 + (32 << 10), "cut {round} at {at}: {passed} bytes");
    }
}

#[test]
fn a_copy_that_was_stopped_goes_on_another_time() {
    let content = bytes(2, 1 << 20);
    let sharing = Sharing::start(&content);
    let place = Place::new();
    struct Stop {
        interrupt: Interrupt,
        directory: PathBuf,
        /// Whether the interrupt was raised. The proxy may still pass earlier bytes when the next
        /// copy has begun, and must not raise it again.
        done: AtomicBool,
    }
    impl Harm for Stop {
        fn harm(&self, at: u64, bytes: &mut [u8]) -> usize {
            if at > 500_000 && !self.done.swap(true, Ordering::SeqCst) {
                // Bytes that have passed are in the partial copy some time later.
                while parts(&self.directory) < 100_000 {
                    thread::yield_now();
                }
                self.interrupt.raise();
            }
            bytes.len()
        }
    }
    let stop = Stop {
        interrupt: place.interrupt.clone(),
        directory: place.directory.path().to_owned(),
        done: AtomicBool::new(false),
    };
    let proxy = Proxy::start(sharing.server.address(), stop);
    let stopped = place.copy(&[proxy.address]);
    assert!(matches!(stopped, Err(CopyError::Fetch(FetchError::Interrupted))), "{stopped:?}");
    assert_eq!(place.copied(), None);
    place.interrupt.reset();
    let copied = place.copy(&[sharing.server.address()]).unwrap();
    assert!(copied.resumed >= 100_000 && copied.resumed < 1 << 20, "{copied:?}");
    assert_eq!(place.copied().unwrap(), content);
}

/// The size of all files in a directory, in bytes.
fn parts(directory: &Path) -> u64 {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn every_flipped_byte_is_found_before_the_file_has_its_name() {
    let content = bytes(3, 400);
    let sharing = Sharing::start(&content);
    // There are two replies: the head alone, and the head with the file's bytes.
    let head = 1 + lonja_wire::get_part::HEAD;
    let mut wrong = 0;
    for at in 0..2 * head + content.len() {
        let proxy = Proxy::start(sharing.server.address(), FlipAt(at as u64));
        let place = Place::new();
        let copied = place.copy(&[proxy.address]);
        // A wrong head is noticed when the peer is asked again.
        match copied {
            Ok(_) => assert_eq!(place.copied().unwrap(), content, "flipped {at}"),
            Err(error) => {
                assert_eq!(place.copied(), None, "flipped {at}");
                wrong += usize::from(matches!(error, CopyError::Wrong(_)));
            }
        }
        assert!(at < 2 * head || !place.directory.path().join("copy").exists(), "flipped {at}");
    }
    assert_eq!(wrong, content.len());
}

#[test]
fn a_peer_that_lies_does_not_spoil_a_copy_from_several() {
    let content = bytes(4, 20 << 20);
    let honest = Sharing::start(&content);
    let liar = Sharing::start(&content);
    struct Spoil;
    impl Harm for Spoil {
        fn harm(&self, at: u64, bytes: &mut [u8]) -> usize {
            if at > 1 << 20 {
                bytes[0] ^= 1;
            }
            bytes.len()
        }
    }
    let proxy = Proxy::start(liar.server.address(), Spoil);
    let place = Place::new();
    let copied = place.copy(&[honest.server.address(), proxy.address]).unwrap();
    assert_eq!(copied.hash, Some(blake3::hash(&content)));
    assert_eq!(place.copied().unwrap(), content);
}

#[test]
fn a_peer_that_goes_away_is_left_to_the_others() {
    let content = bytes(5, 40 << 20);
    let (stays, goes) = (Sharing::start(&content), Sharing::start(&content));
    struct Gone;
    impl Harm for Gone {
        fn harm(&self, at: u64, bytes: &mut [u8]) -> usize {
            if at > 5 << 20 { 0 } else { bytes.len() }
        }
    }
    let proxy = Proxy::start(goes.server.address(), Gone);
    let place = Place::new();
    place.copy(&[proxy.address, stays.server.address()]).unwrap();
    assert_eq!(place.copied().unwrap(), content);
}

#[test]
fn a_file_that_changes_meanwhile_is_copied_as_it_is_then() {
    let content = bytes(6, 4 << 20);
    let sharing = Sharing::start(&content);
    let path = sharing.directory.path().join(NAME);
    struct Change(PathBuf, AtomicBool);
    impl Harm for Change {
        fn harm(&self, at: u64, bytes: &mut [u8]) -> usize {
            if at > 1 << 20 && !self.1.swap(true, Ordering::SeqCst) {
                fs::write(&self.0, "another file").unwrap();
                return 0;
            }
            bytes.len()
        }
    }
    let proxy = Proxy::start(sharing.server.address(), Change(path, AtomicBool::new(false)));
    let place = Place::new();
    place.copy(&[proxy.address]).unwrap();
    assert_eq!(place.copied().unwrap(), b"another file");
    assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 1);
}

#[test]
fn a_hundred_thousand_raced_opens_serve_nothing_from_outside() {
    let root = TempDir::new().unwrap();
    let (shared, outside) = (root.path().join("shared"), root.path().join("outside"));
    for directory in [&shared, &outside] {
        fs::create_dir_all(directory.join("sub")).unwrap();
    }
    fs::create_dir(shared.join("real")).unwrap();
    for inside in [shared.join("real/f"), shared.join("sub/f")] {
        fs::write(inside, "inside").unwrap();
    }
    fs::write(outside.join("f"), "secret").unwrap();
    let swapped = Arc::new(SharedFiles::new(&shared).unwrap());
    let (link, file) = ("link/f".parse::<Filename>().unwrap(), "f".parse::<Filename>().unwrap());
    swapped.publish(&link);
    swapped.publish(&file);
    let over = AtomicBool::new(false);
    let mut served = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            // Each step replaces a name at once by a link, which leads inside or outside.
            let next = root.path().join("next");
            while !over.load(Ordering::Relaxed) {
                for (to, at) in [
                    ("real", "link"),
                    ("../outside", "link"),
                    (outside.to_str().unwrap(), "link"),
                    ("sub/../../outside", "link"),
                    ("real/f", "f"),
                    ("../outside/f", "f"),
                ] {
                    symlink(to, &next).unwrap();
                    fs::rename(&next, shared.join(at)).unwrap();
                }
            }
        });
        for round in 0..100_000 {
            let name = if round % 2 == 0 { &link } else { &file };
            if let Ok(mut opened) = swapped.open(name) {
                let mut content = String::new();
                opened.file.read_to_string(&mut content).unwrap();
                assert_eq!(content, "inside", "open {round}");
                served += 1;
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(served > 100, "the race was always lost: {served}");
}

#[test]
fn a_caller_that_takes_nothing_does_not_keep_others_waiting() {
    let content = bytes(7, 32 << 20);
    let sharing = Sharing::start(&content);
    let _silent: Vec<_> = (0..32)
        .map(|_| {
            let mut stream = TcpStream::connect(sharing.server.address()).unwrap();
            stream.write_all(b"GET_FILE\0file\0").unwrap();
            stream
        })
        .collect();
    let place = Place::new();
    place.copy(&[sharing.server.address()]).unwrap();
    assert_eq!(place.copied().unwrap().len(), content.len());
}

/// A peer of another author: it answers GET_FILE with these bytes, closes at once or when who asks
/// has closed, and closes without an answer when asked for anything else.
fn other_peer(answer: Vec<u8>, closes: bool) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut operation = [0; 9];
            stream.read_exact(&mut operation).unwrap();
            if &operation == b"GET_FILE\0" {
                let mut filename = [0; NAME.len() + 1];
                stream.read_exact(&mut filename).unwrap();
                let _ = stream.write_all(&answer);
                if !closes {
                    let _ = stream.read(&mut filename);
                }
            }
        }
    });
    address
}

#[test]
fn a_peer_that_writes_strings_gives_its_file_without_them() {
    for size in [0, 5, 100_000, 3_000_000] {
        for closes in [true, false] {
            let file: Vec<u8> = (0..size).map(|number: u32| number as u8).collect();
            let answer = [format!("0\0{size}\0").as_bytes(), &file].concat();
            let place = Place::new();
            let copied = place.copy(&[other_peer(answer, closes)]).unwrap();
            assert_eq!((copied.bytes, copied.hash), (u64::from(size), None));
            assert_eq!(place.copied().unwrap(), file);
        }
    }
}

/// What an original peer sends is never taken for anything else but the file.
#[test]
fn a_file_that_begins_like_a_string_is_copied_whole() {
    for file in [&b"\x005\0hello world"[..], b"\0five\0hello", b"\0", b"\0\0", b"5\0hello"] {
        let place = Place::new();
        place.copy(&[other_peer([b"0", file].concat(), true)]).unwrap();
        assert_eq!(place.copied().unwrap(), file);
    }
}

#[test]
fn a_peer_that_writes_strings_and_breaks_off_leaves_no_copy() {
    let place = Place::new();
    let error = place.copy(&[other_peer(b"0\x0010\0hello".to_vec(), true)]).unwrap_err();
    assert!(error.to_string().contains("before the reply was complete"), "{error}");
    assert_eq!(place.copied(), None);
}

#[test]
fn a_peer_that_speaks_something_else_is_named_in_one_line() {
    let place = Place::new();
    let error = place.copy(&[other_peer(b"\0hello".to_vec(), true)]).unwrap_err();
    assert!(matches!(error, CopyError::Fetch(FetchError::Foreign(_))), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
    let error = place.copy(&[other_peer(b"1\0".to_vec(), true)]).unwrap_err();
    assert!(matches!(error, CopyError::Fetch(FetchError::NoFile(_))), "{error}");
}

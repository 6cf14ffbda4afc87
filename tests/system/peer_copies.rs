//! GET_FILE between `lonja peer` and the Python peer, both ways, and `lonja peer get`.

use std::{
    fs::{self, File},
    io::{self, Seek as _, SeekFrom, Write as _},
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use lonja_testing::{Lie, liar};
use lonja_wire::{Encoding, get_part};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    lonja_peer::{LonjaPeer, peer, say, share},
    peer::{Peer, Shell, python},
    process::{Index, Process},
    repository, wire,
};

/// Sizes of files, in bytes: around the 8 KiB pieces of the original peers, and one that a signed
/// 32-bit number cannot hold.
const SIZES: [u64; 6] = [0, 1, 8191, 8192, 8193, 2 << 30];

/// Makes a directory in memory, where the system has `/dev/shm`: on a disk, the largest file would
/// test the disk.
fn directory() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// Makes a sparse file of this size, which costs little. A byte at each MiB and at the end shows
/// whether a part is missing from a copy.
fn file(path: &Path, size: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for offset in (0..size).step_by(1 << 20).chain(size.checked_sub(1)) {
        file.write_all_at(&[(offset >> 20) as u8 | 1], offset).unwrap();
    }
}

fn assert_same(one: &Path, other: &Path) {
    assert!(Command::new("cmp").args([one, other]).status().unwrap().success(), "{}", other.display());
}

fn online<S: Shell>(index: &Index, directory: &TempDir, name: &str) -> S {
    let mut peer = S::start(index.peers, index.datetime, directory.path());
    assert_eq!(peer.run(&format!("REGISTER {name}")), ["REGISTER OK"]);
    assert_eq!(peer.run(&format!("CONNECT {name}")), ["CONNECT OK"]);
    peer
}

/// Copies a file of each size from a peer of kind `A` to a peer of kind `B`.
fn each_size<A: Shell, B: Shell>() {
    let index = Index::start();
    let (from, to) = (directory(), directory());
    let mut alice: A = online(&index, &from, "alice");
    let mut bob: B = online(&index, &to, "bob");
    bob.run("LIST_USERS");
    for size in SIZES {
        let name = format!("ñandú-{size}");
        file(&from.path().join(&name), size);
        assert_eq!(alice.run(&format!("PUBLISH {name} of {size} bytes")), ["PUBLISH OK"]);
        assert_eq!(bob.run(&format!("GET_FILE alice {name} copy-{size}")), ["GET_FILE OK"]);
        assert_same(&from.path().join(&name), &to.path().join(format!("copy-{size}")));
        fs::remove_file(to.path().join(format!("copy-{size}"))).unwrap();
    }
}

#[test]
fn a_python_peer_copies_each_size_from_lonja() {
    each_size::<LonjaPeer, Peer>();
}

#[test]
fn lonja_copies_each_size_from_a_python_peer() {
    each_size::<Peer, LonjaPeer>();
}

#[test]
fn lonja_copies_each_size_from_lonja() {
    each_size::<LonjaPeer, LonjaPeer>();
}

/// Calls the Python peer as a module, because its shell cannot take names with spaces.
const PYTHON: &str = "
import argparse, importlib.util, sys
spec = importlib.util.spec_from_file_location('peer', sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
port, wsdl = int(sys.argv[2]), sys.argv[3]
peer = module.Peer(argparse.Namespace(server='127.0.0.1', port=port, datetime=wsdl, pause=0.02))
assert peer.register('carol') == 0 and peer.connect('carol') == 0
assert peer.publish('del niño 2.txt', 'con espacios') == 0
assert peer.list_users()[0] == 0
assert peer.get_file('alice', 'del niño 1.txt', 'una copia.txt') == 0
print('ready', flush=True)
sys.stdin.readline()
";

#[test]
fn names_with_spaces_and_other_letters_go_both_ways() {
    let index = Index::start();
    let (alices, carols) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut alice: LonjaPeer = online(&index, &alices, "alice");
    fs::write(alices.path().join("del niño 1.txt"), "one").unwrap();
    fs::write(carols.path().join("del niño 2.txt"), "two").unwrap();
    assert_eq!(alice.run("PUBLISH \"del niño 1.txt\" con espacios"), ["PUBLISH OK"]);
    let mut carol = python();
    let wsdl = format!("http://{}/?wsdl", index.datetime);
    carol.args(["-c", PYTHON]).arg(repository("examples/peer.py")).arg(index.peers.port().to_string());
    carol.arg(wsdl).current_dir(carols.path());
    carol.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    carol.stderr(std::process::Stdio::piped());
    let carol = Process::spawn(&mut carol);
    crate::eventually("carol has copied", || carol.stdout().contains(&"ready".to_owned()).then_some(()));
    assert_eq!(fs::read(carols.path().join("una copia.txt")).unwrap(), b"one");
    assert_eq!(alice.run("GET_FILE --refresh carol \"del niño 2.txt\" \"otra copia\""), ["GET_FILE OK"]);
    assert_eq!(fs::read(alices.path().join("otra copia")).unwrap(), b"two");
    assert_eq!(fs::read_dir(alices.path()).unwrap().filter(is_part).count(), 0);
}

fn is_part(entry: &io::Result<fs::DirEntry>) -> bool {
    entry.as_ref().unwrap().file_name().to_str().unwrap().ends_with(".part")
}

#[test]
fn nothing_is_replaced_without_being_told() {
    let index = Index::start();
    let (data, shared, bobs) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::create_dir(shared.path().join("sub")).unwrap();
    fs::write(shared.path().join("sub/a.txt"), "new").unwrap();
    let _alice = share(&index, data.path(), shared.path(), "alice", 1);
    let get = |more: &[&str]| {
        say(&index, bobs.path(), &[&["get", "--as", "bob", "alice", "sub/a.txt"], more].concat())
    };
    let said = get(&[]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("USER DOES NOT EXIST; lonja peer register USER adds it"), "{said:?}");
    assert_eq!(say(&index, bobs.path(), &["register", "--as", "bob"]).code, Some(0));

    fs::write(bobs.path().join("a.txt"), "old").unwrap();
    let said = get(&[]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
    assert_eq!(said.stderr, "lonja: a.txt is there already; --force replaces it\n");
    assert_eq!(fs::read(bobs.path().join("a.txt")).unwrap(), b"old");
    let said = get(&["--force", "--json"]);
    assert_eq!(
        said.json(),
        json!({
            "operation": "GET_FILE", "status": 0, "reply": "GET_FILE OK", "path": "a.txt", "bytes": 3,
            "resumed": 0, "blake3": blake3::hash(b"new").to_hex().to_string(),
        })
    );
    assert_eq!(fs::read(bobs.path().join("a.txt")).unwrap(), b"new");
    fs::create_dir(bobs.path().join("folder")).unwrap();
    assert_eq!(get(&["-o", "folder"]).stdout, "folder/a.txt\n");
    assert_eq!(get(&["-o", "folder/b.txt"]).stdout, "folder/b.txt\n");
    let said = get(&["-o", "nowhere/b.txt"]);
    assert!(said.stderr.starts_with("lonja: cannot write nowhere/b.txt: No such file"), "{said:?}");
}

#[test]
fn a_killed_copy_goes_on_where_it_was() {
    let index = Index::start();
    let (data, shared, bobs) = (directory(), directory(), directory());
    let size = 512 << 20;
    file(&shared.path().join("big"), size);
    let _alice = share(&index, data.path(), shared.path(), "alice", 1);
    assert_eq!(say(&index, bobs.path(), &["register", "--as", "bob"]).code, Some(0));
    let mut command = peer(index.peers, index.datetime, bobs.path());
    command.args(["get", "alice", "big", "--as", "bob"]);
    let part = killed_on_its_way(&mut command, &bobs.path().join("big"), size);
    let there = fs::metadata(&part).unwrap().len();

    let said = say(&index, bobs.path(), &["get", "alice", "big", "--as", "bob", "--json"]);
    assert_eq!(said.json()["resumed"], there, "{said:?}");
    assert_same(&shared.path().join("big"), &bobs.path().join("big"));
    assert_eq!(part_of(bobs.path()), None);

    // When the partial copy has been damaged meanwhile, `get` finds that and begins anew.
    let part = killed_on_its_way(command.args(["-o", "again"]), &bobs.path().join("again"), size);
    let mut damaged = File::options().write(true).open(&part).unwrap();
    damaged.seek(SeekFrom::Start(0)).unwrap();
    damaged.write_all(b"!").unwrap();
    drop(damaged);
    let said = say(&index, bobs.path(), &["get", "alice", "big", "--as", "bob", "--json", "-o", "again"]);
    assert_eq!((said.code, &said.json()["resumed"]), (Some(0), &json!(0)));
    assert_same(&shared.path().join("big"), &bobs.path().join("again"));
}

/// Starts a copy to this path, and kills it when some of the bytes are there, but not all. Gives
/// the path of the partial copy.
fn killed_on_its_way(command: &mut Command, target: &Path, size: u64) -> PathBuf {
    let directory = target.parent().unwrap();
    for _ in 0..20 {
        let mut get = Process::spawn(command);
        crate::eventually("a part is there", || {
            (part_of(directory).is_some() || target.exists()).then_some(())
        });
        get.kill();
        match part_of(directory) {
            Some(part) if fs::metadata(&part).unwrap().len() < size => {
                assert!(!target.exists());
                return part;
            }
            // The copy had all its bytes before the kill came.
            Some(part) => fs::remove_file(part).unwrap(),
            None => fs::remove_file(target).unwrap(),
        }
    }
    panic!("no copy was killed on its way");
}

/// The path of a partial copy in this directory, if it has some bytes.
fn part_of(directory: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().filter(is_part);
    let path = entries.map(|entry| entry.unwrap().path()).next()?;
    (fs::metadata(&path).ok()?.len() > 0).then_some(path)
}

#[test]
fn a_file_is_copied_from_several_peers_at_one_time() {
    let index = Index::start();
    let size = 40 << 20;
    let names = ["alice", "carol", "dave"];
    let mut peers: Vec<_> = names
        .iter()
        .map(|name| {
            let (data, shared) = (directory(), directory());
            file(&shared.path().join("big"), size);
            let process = share(&index, data.path(), shared.path(), name, 1);
            (process, data, shared)
        })
        .collect();
    let bobs = directory();
    assert_eq!(say(&index, bobs.path(), &["register", "--as", "bob"]).code, Some(0));
    let from = ["--from", "alice", "--from", "carol", "--from", "dave"];
    let get = |more: &[&str]| {
        say(&index, bobs.path(), &[&["get", "--as", "bob", "big", "--json"], &from[..], more].concat())
    };
    let said = get(&[]);
    assert_eq!((said.code, &said.json()["bytes"]), (Some(0), &json!(size)), "{said:?}");
    assert_same(&peers[0].2.path().join("big"), &bobs.path().join("big"));

    // First Carol's peer is gone while her session is still there, then Dave has another file.
    peers[1].0.kill();
    let begin = Instant::now();
    let said = get(&["-o", "again"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.stderr.contains("no answer from carol") && begin.elapsed() < Duration::from_secs(30),
        "{said:?}"
    );
    assert_same(&peers[0].2.path().join("big"), &bobs.path().join("again"));
    file(&peers[2].2.path().join("big"), size + 1);
    let said = get(&["-o", "third"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("dave and alice have different files of this name"), "{said:?}");
    assert!(!bobs.path().join("third").exists());
}

/// Where a user serves files.
fn address_of(index: &Index, asker: &str, user: &str) -> SocketAddr {
    let users = wire::list_users(index.peers, asker, Encoding::Padded).unwrap();
    let entry = users.iter().find(|entry| entry.username.as_str() == user).unwrap();
    SocketAddr::from((entry.address, entry.port.get()))
}

#[test]
fn who_sends_a_wrong_block_is_named_and_the_others_go_on() {
    let index = Index::start();
    let size = 40 << 20;
    let names = ["alice", "carol", "dave"];
    let mut peers: Vec<_> = names
        .iter()
        .map(|name| {
            let (data, shared) = (directory(), directory());
            file(&shared.path().join("big"), size);
            let process = share(&index, data.path(), shared.path(), name, 1);
            (process, data, shared)
        })
        .collect();
    let wrong = 5 * get_part::BLOCK + 77;
    let mallory = liar(address_of(&index, "alice", "alice"), Lie::ByteAt(wrong));
    assert_eq!(wire::register(index.peers, "mallory"), 0);
    assert_eq!(wire::connect_as(index.peers, "mallory", mallory.port()), 0);
    assert_eq!(wire::publish(index.peers, "mallory", "big"), 0);
    let bobs = directory();
    assert_eq!(say(&index, bobs.path(), &["register", "--as", "bob"]).code, Some(0));
    let right = peers[0].2.path().join("big");

    // Alone, the liar costs what comes from the wrong block on.
    let said = say(&index, bobs.path(), &["get", "--as", "bob", "mallory", "big"]);
    let kept = 5 * get_part::BLOCK;
    let complaint = format!(
        "mallory sent bytes that are not those of the file; the first {kept} bytes are right and kept: copy from \
         another user"
    );
    assert_eq!((said.code, said.stderr.contains(&complaint)), (Some(1), true), "{said:?}");
    let said = say(&index, bobs.path(), &["get", "--as", "bob", "alice", "big", "--json"]);
    assert_eq!((said.code, &said.json()["resumed"]), (Some(0), &json!(kept)), "{said:?}");
    assert_same(&right, &bobs.path().join("big"));

    // Among others, the liar costs one block, whoever of them is asked for the block first.
    let from = ["--from", "mallory", "--from", "alice", "--from", "carol", "--from", "dave"];
    for number in 0..5 {
        let copy = format!("copy{number}");
        let get = [&["get", "--as", "bob", "big", "-o", &copy], &from[..]].concat();
        let said = say(&index, bobs.path(), &get);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(!said.stderr.contains("does not have the announced hash"), "{said:?}");
        assert_same(&right, &bobs.path().join(copy));
    }
    // If every block of the liar is wrong, the liar is always found out.
    let mallory = liar(address_of(&index, "alice", "alice"), Lie::EachRange);
    assert_eq!(wire::ask(index.peers, "mallory", lonja_wire::Command::Disconnect), 0);
    assert_eq!(wire::connect_as(index.peers, "mallory", mallory.port()), 0);
    assert_eq!(wire::publish(index.peers, "mallory", "big"), 0);
    let said = say(&index, bobs.path(), &[&["get", "--as", "bob", "big", "-o", "last"], &from[..]].concat());
    let named = "mallory sends bytes that are not those of the file, and is asked no more";
    assert_eq!((said.code, said.stderr.matches(named).count()), (Some(0), 1), "{said:?}");
    assert_same(&right, &bobs.path().join("last"));

    // An empty file has no block, and not the hash of another one. The other peer is gone.
    let mallory = liar(address_of(&index, "alice", "alice"), Lie::Empty);
    assert_eq!(wire::ask(index.peers, "mallory", lonja_wire::Command::Disconnect), 0);
    assert_eq!(wire::connect_as(index.peers, "mallory", mallory.port()), 0);
    assert_eq!(wire::publish(index.peers, "mallory", "big"), 0);
    peers[1].0.kill();
    let two = ["get", "--as", "bob", "big", "-o", "empty", "--from", "mallory", "--from", "carol"];
    let said = say(&index, bobs.path(), &two);
    let wrong = "the copy from mallory does not have the announced hash";
    assert_eq!((said.code, said.stderr.contains(wrong)), (Some(1), true), "{said:?}");
    assert!(!bobs.path().join("empty").exists());
}

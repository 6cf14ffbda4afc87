//! `lonja peer share`: what it publishes, and how it follows changes of its files and its session.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::symlink,
};

use lonja_wire::{Command, Encoding};
use tempfile::TempDir;

use crate::{
    cluster::Cluster,
    eventually,
    lonja_peer::{say, share, share_at},
    process::Index,
    wire,
};

fn published(index: &Index, user: &str) -> BTreeSet<String> {
    let files = wire::list_content(index.peers, user, user, Encoding::Padded).unwrap_or_default();
    files.into_iter().map(|file| file.filename.to_string()).collect()
}

fn eventually_published(index: &Index, user: &str, names: &[&str]) {
    let names: BTreeSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
    eventually(&format!("{names:?} are published"), || (published(index, user) == names).then_some(()));
}

#[test]
fn a_directory_is_shared_and_followed() {
    let index = Index::start();
    let (data, shared) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let at = |name: &str| shared.path().join(name);
    fs::create_dir_all(at("sub/dir")).unwrap();
    fs::write(at("a.txt"), "a").unwrap();
    fs::write(at("sub/dir/año 1.txt"), "b").unwrap();
    // These are not published: a link that leads out of the directory, a file of the peer itself,
    // and a name with a line break. A link within the directory is published.
    fs::write(data.path().join("secret"), "secret").unwrap();
    symlink(data.path().join("secret"), at("secret")).unwrap();
    fs::write(at("published-alice.json"), "[]").unwrap();
    fs::write(at("line\nbreak"), "").unwrap();
    symlink("a.txt", at("link")).unwrap();

    let mut alice = share(&index, data.path(), shared.path(), "alice", 3);
    assert_eq!(published(&index, "alice"), ["a.txt", "link", "sub/dir/año 1.txt"].map(str::to_owned).into());
    let complaint = "lonja: line\\u{a}break is not published: its name is not printable: \
                     a control character is in it";
    eventually("the share names the file that it does not publish", || {
        (!alice.stderr().is_empty()).then_some(())
    });
    assert_eq!(alice.stderr(), [complaint]);

    fs::create_dir(at("new")).unwrap();
    fs::write(at("new/c.txt"), "c").unwrap();
    fs::remove_file(at("a.txt")).unwrap();
    eventually_published(&index, "alice", &["new/c.txt", "sub/dir/año 1.txt"]);
    fs::write(at("new/d.txt"), "d").unwrap();
    eventually_published(&index, "alice", &["new/c.txt", "new/d.txt", "sub/dir/año 1.txt"]);
    let bob = TempDir::new().unwrap();
    assert_eq!(say(&index, bob.path(), &["register", "--as", "bob"]).code, Some(0));
    let said = say(&index, bob.path(), &["get", "alice", "sub/dir/año 1.txt", "--as", "bob"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "año 1.txt\n"), "{said:?}");
    assert_eq!(fs::read(bob.path().join("año 1.txt")).unwrap(), b"b");
    let said = say(&index, bob.path(), &["get", "alice", "secret", "--as", "bob"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("alice does not publish that file"), "{said:?}");

    alice.signal("INT");
    assert!(alice.end().success());
    assert_eq!(wire::ask(index.peers, "alice", Command::ListUsers), 2);
}

#[test]
fn nobody_publishes_beside_a_share_what_the_share_does_not_serve() {
    let index = Index::start();
    let (data, shared) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(shared.path().join("a.txt"), "a").unwrap();
    fs::write(data.path().join("b.txt"), "b").unwrap();
    let mut alice = share(&index, data.path(), shared.path(), "alice", 1);
    let publish = || say(&index, data.path(), &["publish", "b.txt", "--as", "alice"]);
    let said = publish();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("alice's session is in another process"), "{said:?}");
    assert_eq!(published(&index, "alice"), ["a.txt".to_owned()].into());
    // Once the share has ended, another program may serve files for alice.
    alice.signal("INT");
    assert!(alice.end().success());
    assert_eq!(say(&index, data.path(), &["connect", "alice", "9"]).code, Some(0));
    assert_eq!(publish().code, Some(0));
    assert_eq!(published(&index, "alice"), ["b.txt".to_owned()].into());
}

#[test]
fn a_share_outlives_its_index_and_the_loss_of_its_session() {
    let index = Index::start();
    let (data, shared) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(shared.path().join("a.txt"), "a").unwrap();
    let mut alice = share(&index, data.path(), shared.path(), "alice", 1);

    // When somebody has ended the session, the share opens a new one for the next change.
    assert_eq!(wire::ask(index.peers, "alice", Command::Disconnect), 0);
    fs::write(shared.path().join("b.txt"), "b").unwrap();
    eventually_published(&index, "alice", &["a.txt", "b.txt"]);
    assert_eq!(wire::ask(index.peers, "alice", Command::Unregister), 0);
    fs::write(shared.path().join("c.txt"), "c").unwrap();
    eventually_published(&index, "alice", &["a.txt", "b.txt", "c.txt"]);

    // A share that was killed as by kill -9 is started again on the same data.
    alice.kill();
    let alice = share(&index, data.path(), shared.path(), "alice", 0);
    eventually("the session is replaced", || {
        alice.stderr().iter().any(|line| line.contains("replaced the session of alice")).then_some(())
    });
    eventually_published(&index, "alice", &["a.txt", "b.txt", "c.txt"]);
    let bob = TempDir::new().unwrap();
    assert_eq!(say(&index, bob.path(), &["register", "--as", "bob"]).code, Some(0));
    assert_eq!(say(&index, bob.path(), &["get", "alice", "c.txt", "--as", "bob"]).code, Some(0));
}

#[test]
fn a_share_that_ends_while_the_registry_is_down_is_known_again() {
    let mut cluster = Cluster::start();
    let at = (cluster.peers, cluster.datetime);
    let (data, shared) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(shared.path().join("a.txt"), "a").unwrap();
    let mut alice = share_at(at, data.path(), shared.path(), "alice", 1);
    cluster.registry.process.kill();
    alice.signal("TERM");
    alice.end();
    let said = alice.stderr();
    assert!(said.iter().any(|line| line.contains("alice may stay connected")), "{said:?}");

    cluster.registry.restart();
    let alice = share_at(at, data.path(), shared.path(), "alice", 0);
    eventually("the session is replaced", || {
        alice.stderr().iter().any(|line| line.contains("replaced the session of alice")).then_some(())
    });
}

#[test]
fn what_the_index_does_not_take_stops_nothing_else() {
    let index = Index::start_with(&["--max-files-per-session", "2"]);
    let (data, shared) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for name in ["a", "b", "c", "d"] {
        fs::write(shared.path().join(name), name).unwrap();
    }
    let alice = share(&index, data.path(), shared.path(), "alice", 2);
    for name in ["c", "d"] {
        eventually("the share names each file that the index refused", || {
            let said = format!("{name} is not published");
            alice.stderr().iter().any(|line| line.contains(&said)).then_some(())
        });
    }
    fs::remove_file(shared.path().join("a")).unwrap();
    eventually_published(&index, "alice", &["b", "c"]);
}

#[test]
fn a_peer_that_is_killed_resets_what_it_was_sending() {
    let index = Index::start();
    let (data, shared) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::File::create(shared.path().join("large")).unwrap().set_len(1 << 30).unwrap();
    let mut alice = share(&index, data.path(), shared.path(), "alice", 1);
    let serves_at = alice.stdout()[0].rsplit(' ').next().unwrap().to_owned();
    let mut stream = TcpStream::connect(serves_at).unwrap();
    stream.write_all(b"GET_FILE\0large\0").unwrap();
    stream.read_exact(&mut [0; 4096]).unwrap();
    alice.kill();
    // An original peer would take the end of the stream for the end of the file.
    let ended = std::io::copy(&mut stream, &mut std::io::sink());
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

//! `lonja admin`: what an operator sees and does.

use std::process::Output;

use lonja_wire::{Command, Encoding};
use serde_json::{Value, json};

use crate::{
    cluster::{Service, on_each_store},
    eventually,
    process::{Index, lonja},
    wire,
};

const TOKEN: &str = "a-token-for-operators";

fn admin(console: &str, arguments: &[&str]) -> Output {
    let at = ["--console", console, "--token", TOKEN, "--as", "olga"];
    lonja().arg("admin").args(at).args(arguments).output().unwrap()
}

/// What an order prints. It must be carried out.
fn printed(console: &str, arguments: &[&str]) -> String {
    let output = admin(console, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What is said of an order that is not carried out.
fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn users(console: &str, arguments: &[&str]) -> Vec<Value> {
    printed(console, arguments).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_operator_disconnects_and_removes_users_on_the_record() {
    on_each_store(|cluster| {
        let urls = [&cluster.registry, &cluster.catalog, &cluster.audit].map(Service::url);
        let services = ["--registry", &urls[0], "--catalog", &urls[1], "--audit", &urls[2]];
        let arguments = [&services[..], &["--admin-token", TOKEN]].concat();
        let service = Service::start_at("127.0.0.1:0", "console", &arguments, &[]);
        let console = service.url();
        let peers = cluster.peers;
        for (name, port) in [("alice", 7001), ("bob", 7002)] {
            assert_eq!(wire::register(peers, name), 0);
            assert_eq!(wire::connect_as(peers, name, port), 0);
            assert_eq!(wire::publish(peers, name, "notes"), 0);
        }
        assert_eq!(wire::register(peers, "carol"), 0);
        let names = |users: Vec<Value>| -> Vec<Value> {
            users.iter().map(|user| json!([user["username"], user["address"]])).collect()
        };
        let (alice, bob) = (json!(["alice", "127.0.0.1:7001"]), json!(["bob", "127.0.0.1:7002"]));
        let all = [json!(["carol", null]), alice.clone(), bob.clone()];
        assert_eq!(names(users(&console, &["users", "--json"])), all);
        assert_eq!(names(users(&console, &["sessions", "--json"])), [alice, bob.clone()]);

        assert_eq!(printed(&console, &["kick", "alice"]), "disconnected alice\n");
        assert_eq!(wire::publish(peers, "alice", "more"), 2, "not connected");
        assert_eq!(wire::connect_as(peers, "alice", 7003), 0);
        let files = wire::list_content(peers, "bob", "alice", Encoding::Padded).unwrap();
        assert!(files.is_empty(), "a new session has no files: {files:?}");
        assert_eq!(printed(&console, &["remove", "alice"]), "removed alice\n");
        assert_eq!(wire::connect_as(peers, "alice", 7003), 1, "not registered");
        assert_eq!(names(users(&console, &["sessions", "--json"])), [bob]);
        assert!(complaint(&admin(&console, &["kick", "alice"])).contains("the user is not registered"));
        assert!(complaint(&admin(&console, &["kick", "carol"])).contains("the user is not connected"));
        assert!(complaint(&admin(&console, &["remove", "nobody"])).contains("the user is not registered"));

        let list = lonja().args(["audit", "list", "--json", "--console", &console]).output().unwrap();
        let records = String::from_utf8(list.stdout).unwrap();
        let records = records.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let of_olga = records.filter(|record| record["operator"] == "olga");
        let of_olga: Vec<_> = of_olga
            .inspect(|record| {
                let from = record["peer_address"].as_str().unwrap();
                assert!(from.starts_with("127.0.0.1:"), "the operator's connection: {from:?}");
            })
            .map(|record| json!([record["operation"], record["username"], record["status"]]))
            .collect();
        assert_eq!(
            of_olga,
            [
                json!(["DISCONNECT", "alice", 0]),
                json!(["UNREGISTER", "alice", 0]),
                json!(["DISCONNECT", "alice", 1]),
                json!(["DISCONNECT", "carol", 2]),
                json!(["UNREGISTER", "nobody", 1]),
            ]
        );
    });
}

#[test]
fn an_operator_frees_a_name_for_another_address() {
    let index = Index::start_with(&["--own-names", "registered", "--admin-token", TOKEN]);
    let console = format!("http://{}", index.console);
    assert_eq!(wire::register(index.peers, "alice"), 0);
    let owner = || users(&console, &["users", "--json"])[0]["owner"].clone();
    assert_eq!(owner(), "127.0.0.1");
    let ask = |command| {
        use std::io::{Read as _, Write as _};
        let mut stream = wire::connect_from([127, 0, 0, 3], index.peers);
        stream.write_all(&wire::bytes("alice", command, Encoding::Terminated)).unwrap();
        let mut status = [0];
        stream.read_exact(&mut status).unwrap();
        status[0] - b'0'
    };
    let connect = || Command::Connect(std::num::NonZeroU16::new(7001).unwrap().into());
    assert_eq!(ask(connect()), 3);
    assert_eq!(printed(&console, &["free", "alice"]), "freed alice\n");
    assert_eq!(owner(), Value::Null);
    assert_eq!(ask(connect()), 0);
    assert_eq!(owner(), "127.0.0.3");
    eventually("the audit says who freed alice", || {
        let list = lonja().args(["audit", "list", "--operation", "free", "--console", &console]).output();
        let list = String::from_utf8(list.unwrap().stdout).unwrap();
        list.contains(" by olga               0 FREE         alice").then_some(())
    });
    // A timer or a container may have no name for who runs the command.
    let mut kick = lonja();
    kick.args(["admin", "--console", &console, "--token", TOKEN, "kick", "alice"]);
    let kicked = kick.env_remove("USER").env_remove("LOGNAME").output().unwrap();
    assert!(kicked.status.success(), "{kicked:?}");
    eventually("the audit says who disconnected alice", || {
        let list =
            lonja().args(["audit", "list", "--operation", "disconnect", "--console", &console]).output();
        let list = String::from_utf8(list.unwrap().stdout).unwrap();
        list.contains(" by uid ").then_some(())
    });
    assert_eq!(ask(connect()), 0);
    let shown = printed(&console, &["users"]);
    assert!(shown.starts_with("127.0.0.3       127.0.0.3:7001        20"), "{shown}");
}

#[test]
fn nobody_else_gives_orders() {
    let index = Index::start_with(&["--admin-token", TOKEN]);
    let console = format!("http://{}", index.console);
    let order = |arguments: &[&str]| {
        let order = ["--console", &console, "--as", "olga", "users"];
        complaint(&lonja().arg("admin").args(arguments).args(order).output().unwrap())
    };
    for none in [&[][..], &["--token", ""]] {
        assert!(order(none).contains("operators need a token: the value of LONJA_ADMIN_TOKEN"), "{none:?}");
    }
    assert!(order(&["--token", "wrong"]).contains("this token is not the value of LONJA_ADMIN_TOKEN"));
    let nameless = ["admin", "--console", &console, "--token", TOKEN, "--as", "a\nb", "remove", "alice"];
    let nameless = complaint(&lonja().args(nameless).output().unwrap());
    assert!(nameless.contains("operator: 1 to 64 bytes"), "{nameless}");
    // An index without a token for operators takes no orders, with whatever token they come.
    let index = Index::start();
    let refused = complaint(&admin(&format!("http://{}", index.console), &["users"]));
    assert!(refused.contains("this index takes no orders: start its console"), "{refused}");
}

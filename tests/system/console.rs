//! The console as its callers see it: over gRPC, over gRPC-web, and the page's headers.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use lonja_proto::{
    audit::Operation,
    console::{
        ListOperationsRequest, ServiceHealth, WatchFilesRequest, WatchFilesResponse, WatchOperationsRequest,
        WatchOverviewRequest, WatchOverviewResponse, WatchUsersRequest, WatchUsersResponse,
        console_service_client::ConsoleServiceClient,
    },
};
use lonja_rpc::{Channel, Dial, Names};
use lonja_wire::Command;
use tokio::runtime::Runtime;
use tonic::{Code, Request, Streaming};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::{
    PATIENCE,
    cluster::{Cluster, Service, on_each_store},
    eventually,
    process::{self, Index, http_get, lonja},
    wire,
};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn client(console: SocketAddr) -> ConsoleServiceClient<Channel> {
    let names = Names::new(None).unwrap();
    ConsoleServiceClient::new(Channel::remote(&format!("http://{console}"), &names, Dial::Plain).unwrap())
}

/// Waits for an answer for which `is_it` holds.
async fn until<T: std::fmt::Debug>(answers: &mut Streaming<T>, is_it: impl Fn(&T) -> bool) -> T {
    let mut seen = Vec::new();
    let wait = async {
        loop {
            let answer = answers.message().await.expect("no failure").expect("no end");
            if is_it(&answer) {
                return answer;
            }
            seen.push(answer);
        }
    };
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(answer) => answer,
        Err(_) => panic!("not seen: {seen:#?}"),
    }
}

fn names(answer: &WatchUsersResponse) -> Vec<&str> {
    answer.users.iter().map(|user| user.username.as_str()).collect()
}

fn filenames(answer: &WatchFilesResponse) -> Vec<&str> {
    answer.files.iter().map(|file| file.filename.as_str()).collect()
}

pub(crate) fn console_of(cluster: &Cluster) -> Service {
    let urls = [&cluster.registry, &cluster.catalog, &cluster.audit].map(Service::url);
    let datetime = format!("datetime=http://{}/?wsdl,gateway=http://127.0.0.1:1/readyz", cluster.datetime);
    Service::start_at(
        "127.0.0.1:0",
        "console",
        &["--registry", &urls[0], "--catalog", &urls[1], "--audit", &urls[2], "--probes", &datetime],
        &[],
    )
}

#[test]
fn it_shows_who_comes_what_they_share_and_what_happens() {
    on_each_store(|cluster| {
        let console = console_of(&cluster);
        runtime().block_on(async {
            let mut client = client(console.address);
            let mut users = client.watch_users(WatchUsersRequest::default()).await.unwrap().into_inner();
            let mut files = client.watch_files(WatchFilesRequest::default()).await.unwrap().into_inner();
            let request = WatchOperationsRequest { newest: 5, ..WatchOperationsRequest::default() };
            let mut operations = client.watch_operations(request).await.unwrap().into_inner();
            let start = until(&mut operations, |_| true).await;
            assert!(
                start.beat && !start.next_page_token.is_empty(),
                "where to go on, before there is anything"
            );
            assert_eq!(until(&mut users, |answer| !answer.beat).await.total, 0);
            assert_eq!(until(&mut files, |answer| !answer.beat).await.total, 0);

            let peers = cluster.peers;
            for (user, port) in [("alice", 7001), ("bob", 7002)] {
                assert_eq!(wire::register(peers, user), 0);
                assert_eq!(wire::connect_as(peers, user, port), 0);
            }
            let both = until(&mut users, |answer| answer.total == 2).await;
            assert_eq!(names(&both), ["bob", "alice"], "newest first");
            assert_eq!(both.users[0].address, "127.0.0.1:7002");
            assert_eq!(wire::publish(peers, "alice", "holiday.zip"), 0);
            let found = until(&mut files, |answer| answer.total == 1).await;
            assert_eq!(filenames(&found), ["holiday.zip"]);
            let file = &found.files[0];
            assert_eq!((file.username.as_str(), file.address.as_str()), ("alice", "127.0.0.1:7001"));

            let page = until(&mut operations, |answer| {
                answer.records.iter().any(|record| record.operation() == Operation::Publish)
            })
            .await;
            assert_eq!(page.records.last().unwrap().subject, "holiday.zip");
            let request = WatchOperationsRequest {
                page_token: start.next_page_token,
                ..WatchOperationsRequest::default()
            };
            let mut again = client.watch_operations(request).await.unwrap().into_inner();
            let first = until(&mut again, |answer| !answer.beat).await;
            assert_eq!(first.records[0].username, "alice", "nothing is left out");

            assert_eq!(wire::ask(peers, "alice", Command::Disconnect), 0);
            assert_eq!(names(&until(&mut users, |answer| answer.total == 1).await), ["bob"]);
            until(&mut files, |answer| !answer.beat && answer.total == 0).await;
        });
    });
}

#[test]
fn what_breaks_is_said_by_its_name() {
    let mut cluster = Cluster::start();
    let console = console_of(&cluster);
    runtime().block_on(async {
        let mut client = client(console.address);
        let mut operations =
            client.watch_operations(WatchOperationsRequest::default()).await.unwrap().into_inner();
        until(&mut operations, |_| true).await;
        cluster.audit.process.kill();
        let broken = loop {
            if let Err(status) = operations.message().await {
                break status;
            }
        };
        assert!(broken.message().starts_with("audit: "), "{broken:?}");
    });
}

#[test]
fn lists_are_given_in_pages_and_searched() {
    on_each_store(|cluster| {
        let console = console_of(&cluster);
        for number in 0..7 {
            let user = format!("user{number}");
            assert_eq!(wire::register(cluster.peers, &user), 0);
            assert_eq!(wire::connect_as(cluster.peers, &user, 7000), 0);
            assert_eq!(wire::publish(cluster.peers, &user, &format!("report {number}.pdf")), 0);
        }
        runtime().block_on(async {
            let mut client = client(console.address);
            let request = WatchUsersRequest { query: "USER".to_owned(), offset: 2, page_size: 3 };
            let mut users = client.watch_users(request).await.unwrap().into_inner();
            let page = until(&mut users, |answer| answer.total == 7).await;
            assert_eq!(names(&page), ["user4", "user3", "user2"]);

            let request = WatchFilesRequest {
                query: "EPORT pdf".to_owned(),
                offset: 5,
                page_size: 5,
                ..WatchFilesRequest::default()
            };
            let mut files = client.watch_files(request).await.unwrap().into_inner();
            let page = until(&mut files, |answer| answer.total == 7).await;
            assert_eq!(filenames(&page), ["report 1.pdf", "report 0.pdf"]);

            let of_one = WatchFilesRequest { username: "user3".to_owned(), ..WatchFilesRequest::default() };
            let mut files = client.watch_files(of_one).await.unwrap().into_inner();
            let page = until(&mut files, |answer| answer.total == 1).await;
            assert_eq!(filenames(&page), ["report 3.pdf"]);
            let of_nobody = WatchFilesRequest { username: "user".to_owned(), ..WatchFilesRequest::default() };
            let mut files = client.watch_files(of_nobody).await.unwrap().into_inner();
            assert_eq!(until(&mut files, |answer| !answer.beat).await.total, 0);

            let too_far = WatchFilesRequest { offset: 10_001, ..WatchFilesRequest::default() };
            let mut files = client.watch_files(too_far).await.unwrap().into_inner();
            assert_eq!(files.message().await.unwrap_err().code(), Code::InvalidArgument);
        });
    });
}

fn service<'a>(answer: &'a WatchOverviewResponse, name: &str) -> &'a ServiceHealth {
    answer.services.iter().find(|service| service.name == name).expect(name)
}

#[test]
fn the_overview_counts_and_says_which_service_is_down() {
    let mut cluster = Cluster::start();
    let console = console_of(&cluster);
    let peers = cluster.peers;
    assert_eq!(wire::register(peers, "alice"), 0);
    assert_eq!(wire::register(peers, "alice"), 1);
    assert_eq!(wire::connect_as(peers, "alice", 7001), 0);
    runtime().block_on(async {
        let mut client = client(console.address);
        let request = WatchOverviewRequest { past_seconds: 300 };
        let mut overview = client.watch_overview(request).await.unwrap().into_inner();
        let as_they_are = [("registry", true), ("audit", true), ("datetime", true), ("gateway", false)];
        let first = until(&mut overview, |answer| {
            !answer.seconds.is_empty()
                && as_they_are.iter().all(|(name, ready)| service(answer, name).ready == *ready)
        })
        .await;
        assert_eq!(
            (first.registered_users, first.online_users, first.published_files),
            (Some(1), Some(1), Some(0))
        );
        let counts = first.seconds.iter().flat_map(|second| &second.counts);
        let registered = counts.filter(|count| count.operation() == Operation::Register);
        let mut registered: Vec<_> = registered.map(|count| (count.status, count.count)).collect();
        registered.sort_unstable();
        assert_eq!(registered, [(0, 1), (1, 1)]);

        assert_eq!(wire::publish(peers, "alice", "a"), 0);
        let next = until(&mut overview, |answer| answer.published_files == Some(1)).await;
        assert_eq!(next.online_users, Some(1));
        cluster.registry.process.kill();
        let down = until(&mut overview, |answer| !service(answer, "registry").ready).await;
        assert_eq!((down.online_users, down.published_files), (None, Some(1)));
        assert!(!service(&down, "registry").problem.is_empty());
        cluster.registry.restart();
        until(&mut overview, |answer| service(answer, "registry").ready).await;
        cluster.audit.process.kill();
        let down = until(&mut overview, |answer| !service(answer, "audit").ready).await;
        assert!(first.counted_until > Some(first.counted_since - 3) && down.counted_until.is_none());
        cluster.audit.restart();
        let back = until(&mut overview, |answer| service(answer, "audit").ready).await;
        assert!(!back.seconds.is_empty(), "the past comes again");
    });
}

#[test]
fn a_console_without_its_services_says_so() {
    let mut cluster = Cluster::start();
    let console = console_of(&cluster);
    cluster.registry.process.kill();
    runtime().block_on(async {
        let mut client = client(console.address);
        let started = Instant::now();
        let mut users = client.watch_users(WatchUsersRequest::default()).await.unwrap().into_inner();
        let status = users.message().await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().starts_with("registry: "), "{status}");
        assert!(started.elapsed() < Duration::from_secs(15));
    });
}

/// Makes a call over gRPC-web as any HTTP/1.1 client can, and gives the head and the body of the
/// answer.
fn grpc_web(console: SocketAddr, method: &str, message: &[u8], headers: &str) -> (String, Vec<u8>) {
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    let head = format!(
        "POST /lonja.console.v1.ConsoleService/{method} HTTP/1.1\r\nHost: {console}\r\n\
         Content-Type: application/grpc-web+proto\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n",
        frame.len()
    );
    let mut stream = TcpStream::connect(console).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&frame).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let split = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    (String::from_utf8_lossy(&answer[..split]).into_owned(), answer[split + 4..].to_vec())
}

#[test]
fn a_plain_http_client_can_call_it_over_grpc_web() {
    let index = Index::start();
    assert_eq!(wire::register(index.peers, "alice"), 0);
    let (head, text) = eventually("the record is in the body", || {
        let (head, body) = grpc_web(index.console, "ListOperations", &[], "");
        let text = String::from_utf8_lossy(&body).into_owned();
        text.contains("alice").then_some((head, text))
    });
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("application/grpc-web+proto"), "{head}");
    // The trailers are the last frame of the body.
    assert!(text.contains("grpc-status:0"), "{text:?}");
}

#[test]
fn reflection_lists_the_console() {
    let index = Index::start();
    let services = runtime().block_on(async {
        let names = Names::new(None).unwrap();
        let channel = Channel::remote(&format!("http://{}", index.console), &names, Dial::Plain).unwrap();
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client = ServerReflectionClient::new(channel);
        let mut answers =
            client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        match answers.message().await.unwrap().unwrap().message_response {
            Some(MessageResponse::ListServicesResponse(list)) => list.service,
            other => panic!("{other:?}"),
        }
    });
    let services: Vec<_> = services.into_iter().map(|service| service.name).collect();
    assert_eq!(services, ["lonja.console.v1.ConsoleService"]);
}

#[test]
fn with_a_token_only_who_shows_it_may_look() {
    let index = Index::start_with(&["--console-token", "secret"]);
    runtime().block_on(async {
        let mut client = client(index.console);
        let status = client.list_operations(ListOperationsRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains("LONJA_CONSOLE_TOKEN"), "{status}");
        let mut request = Request::new(ListOperationsRequest::default());
        request.metadata_mut().insert("authorization", "Bearer secret".parse().unwrap());
        assert!(client.list_operations(request).await.is_ok());
    });
    let (head, body) = grpc_web(index.console, "ListOperations", &[], "");
    assert!(head.contains("grpc-status: 16") || String::from_utf8_lossy(&body).contains("grpc-status:16"));
    let (_, body) = grpc_web(index.console, "ListOperations", &[], "Authorization: Bearer secret\r\n");
    assert!(String::from_utf8_lossy(&body).contains("grpc-status:0"));

    let health = lonja().args(["health", &index.console.to_string()]).output().unwrap();
    assert!(health.status.success(), "health is asked without a token: {health:?}");
    let tail = |arguments: &[&str]| {
        let url = format!("http://{}", index.console);
        lonja().args(["audit", "list", "--console", &url]).args(arguments).output().unwrap()
    };
    assert!(tail(&["--token", "secret"]).status.success());
    let refused = tail(&[]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.lines().count() == 1 && said.contains("--token"), "{said}");
}

#[test]
fn pages_come_with_a_strict_policy_and_only_those_that_are_there() {
    let index = Index::start();
    let mut stream = TcpStream::connect(index.console).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let head = answer.split("\r\n\r\n").next().unwrap().to_lowercase();
    for header in [
        "content-security-policy: default-src 'none'; script-src 'self';",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
    ] {
        assert!(head.contains(header), "{header} in {head}");
    }
    let ask = |host: &str| {
        process::http(index.console, &format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    };
    let (status, said) = ask("rebound.example");
    assert!(status == 421 && said.contains("LONJA_CONSOLE_HOSTS"), "{status} {said}");
    assert_ne!(ask("localhost:8080").0, 421);
    for path in ["/nothing", "/../Cargo.toml", "/%2e%2e/Cargo.toml", "/index.html/"] {
        assert_eq!(http_get(index.console, path).0, 404, "{path}");
    }
    // The page is in every build, and everything that it names is there.
    let (status, page) = http_get(index.console, "/");
    assert_eq!(status, 200);
    let named: Vec<_> = page.split('"').filter(|name| name.starts_with('/')).collect();
    assert_eq!(named, ["/icon.svg", "/console.js", "/console.css"]);
    for path in named {
        assert_eq!(http_get(index.console, path).0, 200, "{path}");
    }
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let again = format!(
        "GET /console.js HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {tag}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(process::http(index.console, &again), (304, String::new()));
}

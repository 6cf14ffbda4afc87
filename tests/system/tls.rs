//! Mutual TLS between real services: who may call what, who is refused, and certificates
//! that are replaced under load.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use lonja_rpc::{Channel, Dial, Names, TlsConfig};
use lonja_testing::{Authority, Identity};
use tempfile::TempDir;
use tokio_rustls::{TlsConnector, rustls};
use tonic::{Code, Status, body::Body};
use tower::ServiceExt as _;

use crate::{cluster::Service, eventually, repository, wire};

const ROLES: [&str; 3] = ["registry", "catalog", "audit"];

fn tls_arguments(identity: &Identity) -> Vec<String> {
    [("--tls-cert", "crt"), ("--tls-key", "key"), ("--tls-ca", "ca")]
        .into_iter()
        .flat_map(|(option, kind)| [option.to_owned(), identity.path(kind).display().to_string()])
        .collect()
}

fn config(identity: &Identity) -> TlsConfig {
    TlsConfig {
        tls_cert: Some(identity.path("crt")),
        tls_key: Some(identity.path("key")),
        tls_ca: Some(identity.path("ca")),
    }
}

/// The services of `ROLES`, each with a certificate of its own.
struct Secured {
    services: Vec<Service>,
    authority: Authority,
    directory: TempDir,
}

impl Secured {
    fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let authority = Authority::new("ours");
        let services = ROLES
            .iter()
            .map(|role| {
                let files = authority.identify(directory.path(), &format!("lonja-{role}"), &[&authority]);
                let store = format!("embedded:{}", directory.path().join("data").display());
                start(role, &["--store", &store], &files)
            })
            .collect();
        Self { services, authority, directory }
    }

    fn gateway(&self) -> Service {
        let files = self.authority.identify(self.directory.path(), "lonja-gateway", &[&self.authority]);
        let urls: Vec<_> = self.services.iter().map(Service::url).collect();
        start("gateway", &["--registry", &urls[0], "--catalog", &urls[1], "--audit", &urls[2]], &files)
    }

    /// Waits for a line with this text on standard error of the service at this index of `ROLES`.
    fn says(&self, role: usize, text: &str) {
        let process = &self.services[role].process;
        eventually(&format!("{} says {text}", ROLES[role]), || {
            process.stderr().iter().any(|line| line.contains(text)).then_some(())
        });
    }
}

fn start(role: &'static str, arguments: &[&str], files: &Identity) -> Service {
    let tls = tls_arguments(files);
    let arguments: Vec<_> = arguments.iter().copied().chain(tls.iter().map(String::as_str)).collect();
    Service::start_at("127.0.0.1:0", role, &arguments, &[])
}

/// Every gRPC method of the services, with the index of its service in `ROLES`.
fn methods() -> Vec<(usize, String)> {
    let mut methods = Vec::new();
    for (index, role) in ROLES.iter().enumerate() {
        let proto = fs::read_to_string(repository(&format!("proto/lonja/{role}/v1/{role}.proto"))).unwrap();
        let service =
            proto.lines().find_map(|line| line.strip_prefix("service ")?.strip_suffix(" {")).unwrap();
        for line in proto.lines().filter_map(|line| line.trim().strip_prefix("rpc ")) {
            let method = line.split('(').next().unwrap();
            methods.push((index, format!("lonja.{role}.v1.{service}/{method}")));
        }
    }
    methods
}

/// Calls a method with an empty message, and gives the status code.
async fn call(channel: Channel, method: &str) -> Code {
    let message = Body::new(Full::from(vec![0; 5]));
    let request = http::Request::post(format!("/{method}")).header("content-type", "application/grpc");
    let request = request.header("te", "trailers").body(message).unwrap();
    let response = match channel.oneshot(request).await {
        Ok(response) => response,
        Err(status) => return status.code(),
    };
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status.code();
    }
    // Only the beginning of a stream matters, so the end of an endless one is not waited for.
    let body = tokio::time::timeout(Duration::from_secs(1), response.into_body().collect()).await;
    let trailers = body.ok().and_then(Result::ok).and_then(|body| body.trailers().cloned());
    trailers.and_then(|trailers| Status::from_header_map(&trailers)).map_or(Code::Ok, |status| status.code())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn each_caller_may_call_what_the_star_says_and_nothing_else() {
    let secured = Secured::start();
    let methods = methods();
    assert!(methods.len() > 20, "{methods:?}");
    let both = [
        "/GetStatistics",
        "/FindEndedSessions",
        "/ListFiles",
        "/CloseSession",
        "/UnregisterUser",
        "/EndSession",
        "/RecordOperations",
    ];
    let of_the_console = [
        "/ListUsers",
        "/LookUpChecks",
        "/FreeUser",
        "/LookUpSessions",
        "/FindSessions",
        "/SearchFiles",
        "/ListOperations",
        "/TailOperations",
        "/CountOperations",
    ];
    let may_call = |caller: &str, method: &str| {
        let is_of = |methods: &[&str]| methods.iter().any(|name| method.ends_with(name));
        match caller {
            "gateway" => !is_of(&of_the_console),
            "console" => is_of(&of_the_console) || is_of(&both),
            _ => false,
        }
    };
    for caller in ["gateway", "registry", "catalog", "audit", "datetime", "console", "someone"] {
        let directory = TempDir::new().unwrap();
        let files =
            secured.authority.identify(directory.path(), &format!("lonja-{caller}"), &[&secured.authority]);
        let tls = config(&files).load().unwrap().unwrap();
        runtime().block_on(async {
            let names = Names::new(None).unwrap();
            for (role, method) in &methods {
                let secure =
                    Dial::Secure(tls.clone(), ["lonja-registry", "lonja-catalog", "lonja-audit"][*role]);
                let channel = Channel::remote(&secured.services[*role].url(), &names, secure).unwrap();
                let mut code = Code::Unavailable;
                for _ in 0..5 {
                    // An attempt to connect fails if the machine stands still for a second.
                    if code == Code::Unavailable {
                        code = call(channel.clone(), method).await;
                    }
                }
                let allowed = may_call(caller, method);
                assert_eq!(code != Code::PermissionDenied, allowed, "{caller} calls {method}: {code:?}");
                assert_ne!(code, Code::Unavailable, "{caller} calls {method}");
            }
            for method in
                ["grpc.health.v1.Health/Check", "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]
            {
                let secure = Dial::Secure(tls.clone(), "lonja-registry");
                let channel = Channel::remote(&secured.services[0].url(), &names, secure).unwrap();
                assert_eq!(call(channel, method).await, Code::PermissionDenied);
            }
        });
    }
    for role in 0..3 {
        secured
            .says(role, "a call was refused: this caller may not call this method caller=\"lonja-someone\"");
    }
}

#[test]
fn who_cannot_show_a_certificate_is_refused_and_logged() {
    let secured = Secured::start();
    let address = secured.services[0].address;
    let url = secured.services[0].url();
    let directory = TempDir::new().unwrap();
    let stranger = Authority::new("a stranger");
    let of_another = stranger.identify(directory.path(), "lonja-gateway", &[&secured.authority]);
    let names = runtime().block_on(async { Names::new(None).unwrap() });
    let method = "lonja.registry.v1.RegistryService/GetStatistics";
    let refused = |files: &Identity, expected: &'static str| {
        runtime().block_on(async {
            let secure = Dial::Secure(config(files).load().unwrap().unwrap(), expected);
            let channel = Channel::remote(&url, &names, secure).unwrap();
            assert_eq!(call(channel, method).await, Code::Unavailable);
        });
    };
    refused(&of_another, "lonja-registry");
    secured.says(0, "a TLS handshake failed: the caller was refused");
    secured.says(0, "UnknownIssuer");
    let expired =
        secured.authority.identify_until(directory.path(), "lonja-gateway", &[&secured.authority], 2021);
    refused(&expired, "lonja-registry");
    secured.says(0, "certificate expired");

    // A caller without TLS is refused.
    let mut plain = TcpStream::connect(address).unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    secured.says(0, "corrupt message");
    runtime().block_on(async {
        let channel = Channel::remote(&url, &names, Dial::Plain).unwrap();
        assert_eq!(call(channel, method).await, Code::Unavailable);
        // A caller without a certificate is refused.
        let mut roots = rustls::RootCertStore::empty();
        let pem = rustls::pki_types::CertificateDer::from(pem(secured.authority.pem()));
        roots.add(pem).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = "lonja-registry".try_into().unwrap();
        // In TLS 1.3 the caller's handshake may succeed, because the refusal comes after it.
        let _ = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    });
    secured.says(0, "peer sent no certificates");

    // A caller refuses a service whose certificate names another service.
    let files = secured.authority.identify(directory.path(), "lonja-gateway", &[&secured.authority]);
    refused(&files, "lonja-catalog");
    let urls: Vec<_> = secured.services.iter().map(Service::url).collect();
    let gateway =
        start("gateway", &["--registry", &urls[1], "--catalog", &urls[0], "--audit", &urls[2]], &files);
    assert_eq!(wire::register(gateway.address, "alice"), 2);
    eventually("the gateway says why", || {
        let says = |line: &String| {
            line.contains("a service failed") && line.contains("certificate not valid for name")
        };
        gateway.process.stderr().iter().any(says).then_some(())
    });
}

/// The bytes of the only certificate of a PEM.
fn pem(text: &str) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    CertificateDer::from_pem_slice(text.as_bytes()).unwrap().to_vec()
}

#[test]
fn certificates_are_replaced_under_load_and_no_request_fails() {
    let mut secured = Secured::start();
    let gateway = secured.gateway();
    let (over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let next = Authority::new("the next");
    thread::scope(|scope| {
        for peer in 0..4 {
            let (over, asked, address) = (&over, &asked, gateway.address);
            scope.spawn(move || {
                for number in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("peer-{peer}-{number}");
                    assert_eq!(wire::register(address, &name), 0);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _over = Over(&over);
        let everyone: Vec<_> = ROLES.iter().chain(&["gateway"]).collect();
        let progress = |what: &str| {
            let before = asked.load(Ordering::Relaxed);
            eventually(what, || (asked.load(Ordering::Relaxed) > before + 100).then_some(()));
        };
        progress("requests before");
        // First everyone trusts both authorities, then gets a certificate of the new one, then
        // trusts only the new one. Services read their files again at the next connection.
        let (old, new) = (&secured.authority, &next);
        for (issuer, trusted) in [(old, vec![old, new]), (new, vec![old, new]), (new, vec![new])] {
            for role in &everyone {
                issuer.identify(secured.directory.path(), &format!("lonja-{role}"), &trusted);
            }
            thread::sleep(Duration::from_secs(2));
            progress("requests after a replacement");
        }
    });
    assert!(asked.load(Ordering::Relaxed) > 500);

    // Who connects now needs a certificate of the new authority.
    let directory = TempDir::new().unwrap();
    let files = secured.authority.identify(directory.path(), "lonja-gateway", &[&next]);
    let names = runtime().block_on(async { Names::new(None).unwrap() });
    let method = "lonja.registry.v1.RegistryService/GetStatistics";
    let ask = |files: &Identity| {
        runtime().block_on(async {
            let secure = Dial::Secure(config(files).load().unwrap().unwrap(), "lonja-registry");
            call(Channel::remote(&secured.services[0].url(), &names, secure).unwrap(), method).await
        })
    };
    assert_eq!(ask(&files), Code::Unavailable);
    secured.says(0, "certificates were replaced");
    assert_eq!(ask(&next.identify(directory.path(), "lonja-gateway", &[&next])), Code::Ok);
    secured.services[0].process.signal("TERM");
    assert!(secured.services[0].process.end().success());
    secured.services[0].restart();
    eventually("the gateway finds it again", || {
        (wire::register(gateway.address, "after-the-restart") != 2).then_some(())
    });
}

#[test]
fn the_script_makes_certificates_that_the_services_take() {
    let directory = TempDir::new().unwrap();
    for _ in 0..2 {
        // The second run keeps the authority that the first has made.
        let mut script = Command::new(repository("deploy/certificates.sh"));
        let made = script.arg(directory.path()).status().unwrap();
        assert!(made.success(), "needs openssl: apt-get install openssl");
    }
    let start = |role: &'static str, arguments: &[&str]| {
        let file = |name: &str| directory.path().join(role).join(name).display().to_string();
        let (cert, key, ca) = (file("tls.crt"), file("tls.key"), file("ca.crt"));
        let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-ca", &ca];
        Service::start_at("127.0.0.1:0", role, &[arguments, &tls[..]].concat(), &[])
    };
    let store = format!("embedded:{}", directory.path().join("data").display());
    let services = ROLES.map(|role| start(role, &["--store", &store]));
    let urls = services.each_ref().map(Service::url);
    let gateway = start("gateway", &["--registry", &urls[0], "--catalog", &urls[1], "--audit", &urls[2]]);
    assert_eq!(wire::register(gateway.address, "alice"), 0);
    assert_eq!(wire::connect_as(gateway.address, "alice", 50_085), 0);
    assert_eq!(wire::publish(gateway.address, "alice", "hello.txt"), 0);
}

/// Ends the peers when it is dropped, so that they also end when an assertion fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

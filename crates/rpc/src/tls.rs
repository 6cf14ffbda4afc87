//! Mutual TLS between services: a caller shows a certificate of the same authority, and is the
//! service that the certificate names. The files are read again when they change, so that
//! certificates are replaced without a restart.

use std::{
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName,
    pem::{self, PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{self, Instant},
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector, client,
    rustls::{
        self, ClientConfig, RootCertStore, ServerConfig,
        server::{VerifierBuilderError, WebPkiClientVerifier},
    },
    server,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use lonja_telemetry::throttle::Throttle;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// The largest number of handshakes that are under way at one time.
const HANDSHAKES: usize = 256;
/// The shortest time after which the files are read again.
const LOOK: Duration = Duration::from_secs(1);
/// The protocol that both ends agree to speak over TLS (ALPN).
const HTTP2: &[u8] = b"h2";

/// The certificate files of a service, as PEM. Either all are given or none.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TlsConfig {
    /// Certificate by which other services know this one, followed by the certificates of its
    /// issuers; without it, services talk to each other unencrypted
    #[arg(long, env = "LONJA_TLS_CERT", value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key
    #[arg(long, env = "LONJA_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Certificates of the authorities that issue the certificates of the other services
    #[arg(long, env = "LONJA_TLS_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_ca: Option<PathBuf>,
}

/// Why certificate files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The error that reading the file gave.
        source: io::Error,
    },
    /// A file is not PEM, or it holds something else than it should.
    #[error("{} cannot be used: {source}", path.display())]
    Content {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with the content.
        source: BadContent,
    },
    /// The files do not fit each other.
    #[error("the certificate files cannot be used together: {0}")]
    Unusable(#[from] BadIdentity),
}

/// What is wrong with the content of a certificate file.
#[derive(Debug, thiserror::Error)]
pub enum BadContent {
    /// The file is not PEM, or has no key.
    #[error(transparent)]
    Pem(#[from] pem::Error),
    /// The file has no certificate.
    #[error("the file contains no certificate")]
    NoCertificate,
    /// A certificate of the file cannot be an authority.
    #[error(transparent)]
    Authority(#[from] rustls::Error),
}

/// Why certificate, key and authorities do not make an identity.
#[derive(Debug, thiserror::Error)]
pub enum BadIdentity {
    /// rustls refuses the certificate, the key or the settings.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    /// Callers cannot be verified by these authorities.
    #[error(transparent)]
    Verifier(#[from] VerifierBuilderError),
}

/// The identity of a service, as its certificate files are now. Clones share one identity.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    paths: [PathBuf; 3],
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    looked: Instant,
    contents: Contents,
    ends: Ends,
}

/// The contents of three files: certificate, key and authorities.
type Contents = [Vec<u8>; 3];

/// The settings with which this service is the server or the client of a connection.
#[derive(Debug, Clone)]
struct Ends {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl TlsConfig {
    /// Reads the files and gives the identity in them, or `None` if no files are given.
    ///
    /// # Errors
    /// When a file cannot be read, or the files make no identity.
    pub fn load(&self) -> Result<Option<Tls>, TlsError> {
        match (&self.tls_cert, &self.tls_key, &self.tls_ca) {
            (Some(cert), Some(key), Some(ca)) => Tls::load([cert.clone(), key.clone(), ca.clone()]).map(Some),
            _ => Ok(None),
        }
    }
}

impl Tls {
    fn load(paths: [PathBuf; 3]) -> Result<Self, TlsError> {
        let contents = read(&paths)?;
        let ends = Ends::new(&paths, &contents)?;
        let current = Mutex::new(Current { looked: Instant::now(), contents, ends });
        Ok(Self(Arc::new(Inner { paths, current })))
    }

    /// The settings that the files make now. While the files make no identity, the last settings
    /// that they made stay in use.
    fn ends(&self) -> Ends {
        let mut current = self.0.current.lock();
        if current.looked.elapsed() >= LOOK {
            current.looked = Instant::now();
            match self.reload(&current.contents) {
                Ok(None) => {}
                Ok(Some((contents, ends))) => {
                    tracing::info!("certificates were replaced");
                    (current.contents, current.ends) = (contents, ends);
                }
                Err(error) => {
                    tracing::warn!(%error, "the new certificates cannot be used: the old ones stay in use")
                }
            }
        }
        current.ends.clone()
    }

    fn reload(&self, contents: &Contents) -> Result<Option<(Contents, Ends)>, TlsError> {
        let now = read(&self.0.paths)?;
        if now == *contents {
            return Ok(None);
        }
        let ends = Ends::new(&self.0.paths, &now)?;
        Ok(Some((now, ends)))
    }

    /// Connects to a service, which must show a certificate for `name`.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        name: &'static str,
    ) -> io::Result<TokioIo<client::TlsStream<TcpStream>>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let connector = TlsConnector::from(self.ends().client);
        Ok(TokioIo::new(connector.connect(name, stream).await?))
    }

    /// Gives the connections of callers that have shown a valid certificate. Accepts connections
    /// until the stream is dropped.
    pub fn accept(self, listener: TcpListener) -> ReceiverStream<io::Result<Secured>> {
        let (secured, incoming) = mpsc::channel(HANDSHAKES);
        tokio::spawn(accept_until_closed(self, listener, secured));
        ReceiverStream::new(incoming)
    }

    async fn secure(&self, stream: TcpStream) -> io::Result<Secured> {
        stream.set_nodelay(true)?;
        let handshake = TlsAcceptor::from(self.ends().server).accept(stream);
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no handshake in time");
        let stream = time::timeout(HANDSHAKE, handshake).await.map_err(late)??;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let caller = certificates.first().map(names).unwrap_or_default();
        Ok(Secured { stream, caller: Caller(caller.into()) })
    }
}

async fn accept_until_closed(tls: Tls, listener: TcpListener, secured: mpsc::Sender<io::Result<Secured>>) {
    static REFUSED: Throttle = Throttle::events();
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    let mut handshakes = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = secured.closed() => return,
            accepted = listener.accept() => accepted,
            Some(_) = handshakes.join_next() => continue,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (tls, secured) = (tls.clone(), secured.clone());
        handshakes.spawn(async move {
            match tls.secure(stream).await {
                // Sending fails only at the end, when nobody takes connections any more.
                Ok(stream) => drop(secured.send(Ok(stream)).await),
                Err(error) => {
                    if let Some(suppressed) = REFUSED.admit() {
                        tracing::warn!(client = %address.ip(), %error, suppressed, "a TLS handshake failed: the caller was refused");
                    }
                }
            }
            drop(place);
        });
    }
}

impl Ends {
    fn new(paths: &[PathBuf; 3], contents: &Contents) -> Result<Self, TlsError> {
        let [cert, key, ca] = contents;
        let content =
            |index: usize, source: BadContent| TlsError::Content { path: paths[index].clone(), source };
        let chain = certificates(cert).map_err(|source| content(0, source))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| content(1, error.into()))?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(ca).map_err(|source| content(2, source))? {
            roots.add(authority).map_err(|error| content(2, error.into()))?;
        }
        Ok(Self::of(chain, key, Arc::new(roots))?)
    }

    fn of(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Arc<RootCertStore>,
    ) -> Result<Self, BadIdentity> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let verifier = verifier.build()?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let server = server.with_protocol_versions(&[&rustls::version::TLS13])?;
        let server = server.with_client_cert_verifier(verifier);
        let mut server = server.with_single_cert(chain.clone(), key.clone_key())?;
        server.alpn_protocols = vec![HTTP2.to_vec()];
        // Without session tickets, each new connection makes a full handshake, in which both ends
        // show their current certificates.
        server.send_tls13_tickets = 0;
        let client = ClientConfig::builder_with_provider(provider);
        let client = client.with_protocol_versions(&[&rustls::version::TLS13])?;
        let client = client.with_root_certificates(roots);
        let mut client = client.with_client_auth_cert(chain, key)?;
        client.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }
}

fn read(paths: &[PathBuf; 3]) -> Result<Contents, TlsError> {
    let read =
        |path: &PathBuf| fs::read(path).map_err(|source| TlsError::Read { path: path.clone(), source });
    Ok([read(&paths[0])?, read(&paths[1])?, read(&paths[2])?])
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadContent> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(BadContent::NoCertificate),
        certificates => Ok(certificates?),
    }
}

/// The DNS names that a certificate is for.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    webpki::EndEntityCert::try_from(certificate)
        .map(|certificate| certificate.valid_dns_names().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// The DNS names in the certificate of a caller.
#[derive(Debug, Clone)]
pub struct Caller(Arc<[String]>);

impl Caller {
    /// Whether `name` is one of the caller's names.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.0.iter().any(|own| own == name)
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// A connection of a caller that has shown a valid certificate.
#[derive(Debug)]
pub struct Secured {
    stream: server::TlsStream<TcpStream>,
    caller: Caller,
}

impl Connected for Secured {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use lonja_testing::{Authority, Identity};
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_stream::StreamExt as _;

    use super::*;

    /// The files of a service in a directory of their own.
    struct Files {
        directory: TempDir,
        identity: Identity,
    }

    impl Files {
        fn new(authority: &Authority, name: &str, trusted: &[&Authority]) -> Self {
            let directory = TempDir::new().unwrap();
            let identity = authority.identify(directory.path(), name, trusted);
            Self { directory, identity }
        }

        fn path(&self, kind: &str) -> PathBuf {
            self.identity.path(kind)
        }

        fn load(&self) -> Result<Tls, TlsError> {
            let config = TlsConfig {
                tls_cert: Some(self.path("crt")),
                tls_key: Some(self.path("key")),
                tls_ca: Some(self.path("ca")),
            };
            config.load().map(Option::unwrap)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn new_files_are_used_within_a_second_and_broken_ones_never() {
        let authority = Authority::new("ours");
        let files = Files::new(&authority, "lonja-registry", &[&authority]);
        let tls = files.load().unwrap();
        let server = || tls.ends().server;
        let first = server();
        authority.identify(files.directory.path(), "lonja-registry", &[&authority]);
        assert!(Arc::ptr_eq(&first, &server()), "the files are not read for each connection");
        time::advance(LOOK).await;
        let second = server();
        assert!(!Arc::ptr_eq(&first, &second));
        // Nothing has changed, so nothing is made anew.
        time::advance(LOOK).await;
        assert!(Arc::ptr_eq(&second, &server()));
        for broken in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            fs::write(files.path("crt"), broken).unwrap();
            time::advance(LOOK).await;
            assert!(Arc::ptr_eq(&second, &server()), "{broken:?}");
        }
        // A certificate whose key has not been written yet.
        let other = Files::new(&authority, "lonja-registry", &[&authority]);
        fs::copy(other.path("crt"), files.path("crt")).unwrap();
        time::advance(LOOK).await;
        assert!(Arc::ptr_eq(&second, &server()));
        fs::copy(other.path("key"), files.path("key")).unwrap();
        time::advance(LOOK).await;
        assert!(!Arc::ptr_eq(&second, &server()));
    }

    #[tokio::test]
    async fn files_that_make_no_identity_are_named() {
        let authority = Authority::new("ours");
        let files = Files::new(&authority, "lonja-registry", &[&authority]);
        let other = Files::new(&authority, "lonja-registry", &[&authority]);
        fs::copy(other.path("key"), files.path("key")).unwrap();
        assert!(matches!(files.load(), Err(TlsError::Unusable(_))));
        fs::write(files.path("ca"), "no certificate").unwrap();
        let error = files.load().unwrap_err().to_string();
        assert!(error.contains("ca cannot be used: the file contains no certificate"), "{error}");
        fs::remove_file(files.path("key")).unwrap();
        assert!(matches!(files.load(), Err(TlsError::Read { path, .. }) if path == files.path("key")));
        let none = TlsConfig::default().load().unwrap();
        assert!(none.is_none());
    }

    /// Connects a client to a server, and gives the names of the caller that the server sees; `None`
    /// if one end refuses the other.
    async fn meet(server: &Files, client: &Files, name: &'static str) -> Option<String> {
        #[expect(clippy::disallowed_methods, reason = "a test needs no backlog")]
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = server.load().unwrap().accept(listener);
        let client = client.load().unwrap();
        let connected = tokio::spawn(async move {
            let mut stream = client.connect(address, name).await?.into_inner();
            // In TLS 1.3 the refusal of the client's certificate comes with the first read.
            let mut byte = [0];
            let _ = stream.read_exact(&mut byte).await?;
            io::Result::Ok(byte)
        });
        let accepted = tokio::spawn(async move {
            let mut accepted = incoming.next().await?.ok()?;
            accepted.write_all(b"x").await.ok()?;
            Some(accepted.caller.to_string())
        });
        let is_connected = connected.await.unwrap().is_ok();
        if is_connected { accepted.await.unwrap() } else { None }
    }

    #[tokio::test]
    async fn while_authorities_change_callers_of_both_are_let_in() {
        let (old, new, foreign) = (Authority::new("old"), Authority::new("new"), Authority::new("foreign"));
        let server = Files::new(&new, "lonja-registry", &[&old, &new]);
        for authority in [&old, &new] {
            let gateway = Files::new(authority, "lonja-gateway", &[&old, &new]);
            assert_eq!(meet(&server, &gateway, "lonja-registry").await.as_deref(), Some("lonja-gateway"));
        }
        let stranger = Files::new(&foreign, "lonja-gateway", &[&old, &new]);
        assert_eq!(meet(&server, &stranger, "lonja-registry").await, None);
        // A caller that trusts only the old authority refuses the service.
        let late = Files::new(&old, "lonja-gateway", &[&old]);
        assert_eq!(meet(&server, &late, "lonja-registry").await, None);
        // A service with the certificate of another is not the one that was asked for.
        let gateway = Files::new(&new, "lonja-gateway", &[&new]);
        assert_eq!(meet(&server, &gateway, "lonja-catalog").await, None);
    }
}

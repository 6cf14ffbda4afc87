//! How connections to the replicas of a service are made.

use std::{fmt, future::Future, io, net::SocketAddr, pin::Pin, sync::Arc};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{self, Endpoint};
use tower::service_fn;

use crate::tls::Tls;

/// How a connection to a replica is made.
#[derive(Clone)]
pub enum Dial {
    /// By TCP, without encryption.
    Plain,
    /// By TLS: the replica must show a certificate for the name, of the same authority.
    Secure(Tls, &'static str),
    /// By a function, such as that of a simulated network.
    By(Arc<dyn Fn(SocketAddr) -> Dialled + Send + Sync>),
}

/// A connection that is being made.
pub type Dialled = Pin<Box<dyn Future<Output = io::Result<TokioIo<Box<dyn Connection>>>> + Send>>;

/// A connection over which HTTP/2 can be spoken.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Secure(..) => "Secure",
            Self::By(_) => "By",
        })
    }
}

impl Dial {
    /// Makes the channel to a replica, which connects when it is first used.
    pub(crate) fn channel(&self, endpoint: &Endpoint, address: SocketAddr) -> transport::Channel {
        match self.clone() {
            Self::Plain => endpoint.connect_lazy(),
            Self::Secure(tls, name) => endpoint.connect_with_connector_lazy(service_fn(move |_| {
                let tls = tls.clone();
                async move { tls.connect(address, name).await }
            })),
            Self::By(connect) => endpoint.connect_with_connector_lazy(service_fn(move |_| connect(address))),
        }
    }
}

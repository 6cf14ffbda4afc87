//! The bare chain: what a request costs that crosses two services and Redis when nothing else is
//! done for it.
//!
//! The front accepts a connection and makes one gRPC call; the back makes one script call in Redis
//! and answers. Each is a process with a runtime of one thread.

use std::sync::Arc;

use lonja_proto::registry::{
    self as proto, RegisterUserRequest, RegisterUserResponse,
    registry_service_client::RegistryServiceClient,
    registry_service_server::{RegistryService, RegistryServiceServer},
};
use redis::{Script, aio::MultiplexedConnection};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};
use tokio_stream::Empty;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};

#[derive(Debug, clap::Args)]
pub(crate) struct FrontConfig {
    /// URL of the back
    #[arg(long)]
    back: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BackConfig {
    /// URL of Redis
    #[arg(long)]
    redis: String,
}

fn listen() -> anyhow::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(([0, 0, 0, 0], 0).into())?;
    Ok(socket.listen(4096)?)
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn front(config: &FrontConfig) -> anyhow::Result<()> {
    let listener = listen()?;
    let channel = Endpoint::from_shared(config.back.clone())?.tcp_nodelay(true).connect().await?;
    let client = RegistryServiceClient::new(channel);
    println!("listens on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(converse(stream, client.clone()));
    }
}

/// Reads a terminated request of three fields, which ends at its third NUL, calls the back and
/// answers.
async fn converse(mut stream: TcpStream, mut client: RegistryServiceClient<Channel>) -> anyhow::Result<()> {
    let mut bytes = [0; 1044];
    let mut len = 0;
    while bytes[..len].iter().filter(|byte| **byte == 0).count() < 3 {
        match stream.read(&mut bytes[len..]).await? {
            0 => return Ok(()),
            more => len += more,
        }
    }
    let username = String::from_utf8_lossy(&bytes[..len]).into_owned();
    client.register_user(RegisterUserRequest { username, owner: 0 }).await?;
    Ok(stream.write_all(b"0").await?)
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn back(config: &BackConfig) -> anyhow::Result<()> {
    let listener = listen()?;
    let redis = redis::Client::open(config.redis.as_str())?.get_multiplexed_async_connection().await?;
    let script = Arc::new(Script::new("return redis.call('HSETNX', KEYS[1], ARGV[1], '')"));
    println!("listens on {}", listener.local_addr()?);
    Server::builder()
        .tcp_nodelay(true)
        .add_service(RegistryServiceServer::new(Back { redis, script }))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

struct Back {
    redis: MultiplexedConnection,
    script: Arc<Script>,
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the chain registers only"))
}

#[tonic::async_trait]
impl RegistryService for Back {
    type ListSessionsStream = Empty<Result<proto::ListSessionsResponse, Status>>;
    type ListUsersStream = Empty<Result<proto::ListUsersResponse, Status>>;

    async fn register_user(
        &self,
        request: Request<RegisterUserRequest>,
    ) -> Result<Response<RegisterUserResponse>, Status> {
        let mut call = self.script.prepare_invoke();
        call.key("users").arg(request.into_inner().username);
        let _: i64 = call
            .invoke_async(&mut self.redis.clone())
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(RegisterUserResponse {}))
    }

    async fn unregister_user(
        &self,
        _: Request<proto::UnregisterUserRequest>,
    ) -> Result<Response<proto::UnregisterUserResponse>, Status> {
        not_here()
    }

    async fn open_session(
        &self,
        _: Request<proto::OpenSessionRequest>,
    ) -> Result<Response<proto::OpenSessionResponse>, Status> {
        not_here()
    }

    async fn close_session(
        &self,
        _: Request<proto::CloseSessionRequest>,
    ) -> Result<Response<proto::CloseSessionResponse>, Status> {
        not_here()
    }

    async fn get_session(
        &self,
        _: Request<proto::GetSessionRequest>,
    ) -> Result<Response<proto::GetSessionResponse>, Status> {
        not_here()
    }

    async fn note_dialect(
        &self,
        _: Request<proto::NoteDialectRequest>,
    ) -> Result<Response<proto::NoteDialectResponse>, Status> {
        not_here()
    }

    async fn free_user(
        &self,
        _: Request<proto::FreeUserRequest>,
    ) -> Result<Response<proto::FreeUserResponse>, Status> {
        not_here()
    }

    async fn get_remote_session(
        &self,
        _: Request<proto::GetRemoteSessionRequest>,
    ) -> Result<Response<proto::GetRemoteSessionResponse>, Status> {
        not_here()
    }

    async fn list_sessions(
        &self,
        _: Request<proto::ListSessionsRequest>,
    ) -> Result<Response<Self::ListSessionsStream>, Status> {
        not_here()
    }

    async fn find_ended_sessions(
        &self,
        _: Request<proto::FindEndedSessionsRequest>,
    ) -> Result<Response<proto::FindEndedSessionsResponse>, Status> {
        not_here()
    }

    async fn look_up_sessions(
        &self,
        _: Request<proto::LookUpSessionsRequest>,
    ) -> Result<Response<proto::LookUpSessionsResponse>, Status> {
        not_here()
    }

    async fn find_sessions(
        &self,
        _: Request<proto::FindSessionsRequest>,
    ) -> Result<Response<proto::FindSessionsResponse>, Status> {
        not_here()
    }

    async fn list_users(
        &self,
        _: Request<proto::ListUsersRequest>,
    ) -> Result<Response<Self::ListUsersStream>, Status> {
        not_here()
    }

    async fn take_checks(
        &self,
        _: Request<proto::TakeChecksRequest>,
    ) -> Result<Response<proto::TakeChecksResponse>, Status> {
        not_here()
    }

    async fn note_check(
        &self,
        _: Request<proto::NoteCheckRequest>,
    ) -> Result<Response<proto::NoteCheckResponse>, Status> {
        not_here()
    }

    async fn look_up_checks(
        &self,
        _: Request<proto::LookUpChecksRequest>,
    ) -> Result<Response<proto::LookUpChecksResponse>, Status> {
        not_here()
    }

    async fn get_statistics(
        &self,
        _: Request<proto::GetStatisticsRequest>,
    ) -> Result<Response<proto::GetStatisticsResponse>, Status> {
        not_here()
    }
}

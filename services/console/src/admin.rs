//! What an operator does by hand: `lonja.admin.v1`, which is served only if there is a token for it.
//!
//! A kick and a removal change what a DISCONNECT and an UNREGISTER of the user's peer change. Each order is
//! sent to the audit before the operator is answered.

use std::{mem, net::Ipv4Addr, sync::Arc};

use axum::Router;
use futures_util::TryStreamExt as _;
use lonja_chassis::{clock, http::Caller, service::Backends};
use lonja_proto::{
    Reason, SessionId,
    admin::{
        FreeUserRequest, FreeUserResponse, KickUserRequest, KickUserResponse, ListUsersRequest,
        ListUsersResponse, RemoveUserRequest, RemoveUserResponse, User,
        admin_service_server::{AdminService, AdminServiceServer},
    },
    audit::{Operation, OperationRecord, RecordOperationsRequest},
    catalog::EndSessionRequest,
    registry::{self, CloseSessionRequest, RegisteredUser, UnregisterUserRequest},
};
use tokio::sync::{Mutex, Semaphore};
use tonic::{
    Request, Response, Status,
    service::{Routes, interceptor::InterceptorLayer},
};
use tower::Layer as _;

use crate::{
    backend::{in_time, pages_in_time, said_by},
    service::{methods, place_for_all},
    taken::taken_in_time,
    token::{Guard, Token},
    users::address,
    watch::Answers,
};

/// The largest size of an operator's name, in bytes.
const MAX_OPERATOR: usize = 64;

/// The routes of the service for operators. Without a token every method is unimplemented.
/// `all` has the places of those who read every user.
pub(crate) fn router(backend: Backends, token: Token, all: Arc<Semaphore>) -> Router {
    let methods = methods::<AdminServiceServer<AdminGrpc>>();
    if !token.is_set() {
        return Router::new().route_service(&methods, Routes::default().prepare());
    }
    let admin = AdminServiceServer::new(AdminGrpc { backend, writer: Arc::default(), all });
    let guarded = InterceptorLayer::new(Guard::of_operators(token)).layer(Routes::new(admin).prepare());
    Router::new().route_service(&methods, guarded)
}

/// Answers `lonja.admin.v1`.
#[derive(Debug, Clone)]
struct AdminGrpc {
    backend: Backends,
    writer: Arc<Mutex<Writer>>,
    /// Places of those who read every user.
    all: Arc<Semaphore>,
}

/// The writer of the console's records at the audit: the writer's id, and the number of its next record.
#[derive(Debug)]
struct Writer {
    writer_id: String,
    next: u64,
}

impl Default for Writer {
    fn default() -> Self {
        Self { writer_id: SessionId::fresh().to_string(), next: 1 }
    }
}

/// A change that an operator asks for, and the address of the operator's connection.
struct Order {
    operation: Operation,
    username: String,
    operator: String,
    from: String,
}

impl Order {
    fn new<T>(
        operation: Operation,
        request: &Request<T>,
        username: &str,
        operator: &str,
    ) -> Result<Self, Status> {
        if operator.is_empty() || operator.len() > MAX_OPERATOR || operator.chars().any(char::is_control) {
            return Err(Status::invalid_argument("operator: 1 to 64 bytes, without control characters"));
        }
        let from = request.extensions().get().map(|Caller(address)| address.to_string()).unwrap_or_default();
        Ok(Self { operation, username: username.to_owned(), operator: operator.to_owned(), from })
    }

    /// The status of "any other failure" of the operation (docs/protocol.md 3).
    fn status_of_a_failure(&self) -> u32 {
        if self.operation == Operation::Disconnect { 3 } else { 2 }
    }

    fn record(self, status: u32) -> OperationRecord {
        OperationRecord {
            operation: self.operation.into(),
            username: self.username,
            handled_at: Some(clock::now().into()),
            peer_address: self.from,
            status,
            operator: self.operator,
            ..OperationRecord::default()
        }
    }
}

impl AdminGrpc {
    /// Carries out an order to its end, even if the operator hangs up meanwhile. `change` gives the session
    /// that ended, or an empty text.
    async fn carry_out(
        &self,
        order: Order,
        change: impl Future<Output = Result<String, Status>> + Send + 'static,
    ) -> Result<(), Status> {
        let admin = self.clone();
        let done = tokio::spawn(async move { admin.change_and_record(order, change).await });
        done.await.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
    }

    /// Carries out an order, and records the order with its outcome: also if the order was refused, and if it
    /// is not known whether it was carried out.
    async fn change_and_record(
        &self,
        order: Order,
        change: impl Future<Output = Result<String, Status>>,
    ) -> Result<(), Status> {
        let answer = in_time("registry", async { Ok(change.await) }).await;
        let (status, result) = match answer {
            Ok(Ok(ended)) => {
                self.forget(ended).await;
                (0, Ok(()))
            }
            Ok(Err(status)) => match Reason::try_from(&status) {
                // The status of a peer's operation of this kind (docs/protocol.md 3).
                Ok(Reason::UserNotFound) => (1, Err(status)),
                Ok(Reason::SessionNotFound) => (2, Err(status)),
                _ => (order.status_of_a_failure(), Err(said_by("registry", &status))),
            },
            Err(late) => (order.status_of_a_failure(), Err(late)),
        };
        match (result, self.record(order.record(status)).await) {
            (result, Ok(())) => result,
            (Ok(()), Err(late)) => {
                let text = format!("{}: the order was carried out, and may not be recorded", late.message());
                Err(Status::new(late.code(), text))
            }
            (Err(failed), Err(late)) => {
                let text = format!("{}; the order may not be recorded: {}", failed.message(), late.message());
                Err(Status::new(failed.code(), text))
            }
        }
    }

    /// Has the catalog remove what a session published. If that fails, the gateway's sweeper has it done.
    async fn forget(&self, session_id: String) {
        if !session_id.is_empty() {
            let ended = self.backend.catalog.end_session(EndSessionRequest { session_id });
            let _ = in_time("catalog", ended).await;
        }
    }

    async fn record(&self, record: OperationRecord) -> Result<(), Status> {
        let mut writer = self.writer.lock().await;
        // If the audit does not answer, the record may be stored or not: its number is not used again.
        let Writer { writer_id, next } = mem::take(&mut *writer);
        let records = vec![record];
        let request = RecordOperationsRequest { writer_id: writer_id.clone(), first_sequence: next, records };
        let recorded = in_time("audit", self.backend.audit.record_operations(request)).await;
        recorded?;
        *writer = Writer { writer_id, next: next + 1 };
        Ok(())
    }
}

#[tonic::async_trait]
impl AdminService for AdminGrpc {
    type ListUsersStream = Answers<ListUsersResponse>;

    async fn list_users(
        &self,
        _: Request<ListUsersRequest>,
    ) -> Result<Response<Self::ListUsersStream>, Status> {
        let place = place_for_all(&self.all)?;
        let pages = self.backend.registry.list_users(registry::ListUsersRequest::default());
        let pages = pages_in_time("registry", in_time("registry", pages).await?);
        Ok(Response::new(taken_in_time(Box::pin(pages.map_ok(move |page| {
            let _held_until_the_end = &place;
            ListUsersResponse { users: page.users.into_iter().map(user).collect() }
        })))))
    }

    async fn kick_user(
        &self,
        request: Request<KickUserRequest>,
    ) -> Result<Response<KickUserResponse>, Status> {
        let KickUserRequest { username, operator } = request.get_ref();
        let order = Order::new(Operation::Disconnect, &request, username, operator)?;
        let kick = CloseSessionRequest { username: username.clone(), ..CloseSessionRequest::default() };
        let registry = self.backend.registry.clone();
        let kick = async move { Ok(registry.close_session(kick).await?.ended_session_id) };
        self.carry_out(order, kick).await?;
        Ok(Response::new(KickUserResponse {}))
    }

    async fn free_user(
        &self,
        request: Request<FreeUserRequest>,
    ) -> Result<Response<FreeUserResponse>, Status> {
        let FreeUserRequest { username, operator } = request.get_ref();
        let order = Order::new(Operation::Free, &request, username, operator)?;
        let free = registry::FreeUserRequest { username: username.clone() };
        let registry = self.backend.registry.clone();
        let free = async move { registry.free_user(free).await.map(|_| String::new()) };
        self.carry_out(order, free).await?;
        Ok(Response::new(FreeUserResponse {}))
    }

    async fn remove_user(
        &self,
        request: Request<RemoveUserRequest>,
    ) -> Result<Response<RemoveUserResponse>, Status> {
        let RemoveUserRequest { username, operator } = request.get_ref();
        let order = Order::new(Operation::Unregister, &request, username, operator)?;
        let remove = UnregisterUserRequest { username: username.clone(), only_for: None };
        let registry = self.backend.registry.clone();
        let remove = async move { Ok(registry.unregister_user(remove).await?.ended_session_id) };
        self.carry_out(order, remove).await?;
        Ok(Response::new(RemoveUserResponse {}))
    }
}

fn user(user: RegisteredUser) -> User {
    let session = user.session.and_then(|session| session.session);
    let owner = (user.owner != 0).then(|| Ipv4Addr::from_bits(user.owner).to_string());
    User {
        username: user.username,
        owner: owner.unwrap_or_default(),
        address: address(session.as_ref().and_then(|session| session.endpoint)),
        online_since_ms: session.map(|session| session.opened_at_ms).unwrap_or_default(),
    }
}

//! The names of span attributes: those of OpenTelemetry's semantic conventions, and Lonja's own
//! (`lonja.*`) where the conventions have none.

/// The system of remote calls: always `grpc`.
pub const RPC_SYSTEM_NAME: &str = "rpc.system.name";
/// The name of the method that is called, with the name of its service before it.
pub const RPC_METHOD: &str = "rpc.method";
/// The canonical code of the answer, such as `NOT_FOUND`.
pub const RPC_RESPONSE_STATUS_CODE: &str = "rpc.response.status_code";
/// The host of the service that is called.
pub const SERVER_ADDRESS: &str = "server.address";
/// The port of the service that is called.
pub const SERVER_PORT: &str = "server.port";
/// The peer's address; behind a proxy or a load balancer, the address that the proxy names.
pub const CLIENT_ADDRESS: &str = "client.address";
/// The peer's port; behind a proxy or a load balancer, the port that the proxy names.
pub const CLIENT_PORT: &str = "client.port";
/// The address at the other end of the connection, which may be the address of a proxy.
pub const NETWORK_PEER_ADDRESS: &str = "network.peer.address";
/// The database system: always `redis`.
pub const DB_SYSTEM_NAME: &str = "db.system.name";
/// The Redis command, such as `EVALSHA`.
pub const DB_OPERATION_NAME: &str = "db.operation.name";
/// How many changes travelled in one script call, if more than one, or how many commands in one
/// pipeline.
pub const DB_OPERATION_BATCH_SIZE: &str = "db.operation.batch.size";
/// The script that is called, by the name of its service.
pub const DB_STORED_PROCEDURE_NAME: &str = "db.stored_procedure.name";
/// What went wrong: a canonical code of gRPC, or the text of the error.
pub const ERROR_TYPE: &str = "error.type";
/// The operation that the peer asked for.
pub const OPERATION: &str = "lonja.operation";
/// The dialect of the reply, such as `char` or `text`.
pub const DIALECT: &str = "lonja.dialect";
/// The status that the peer was answered, as a number.
pub const STATUS: &str = "lonja.status";

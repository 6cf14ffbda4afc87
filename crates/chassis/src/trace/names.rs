//! Names of attributes by OpenTelemetry's semantic conventions, and our own where there
//! are none.

/// `grpc`.
pub const RPC_SYSTEM_NAME: &str = "rpc.system.name";
/// The full name of the method, with that of its service.
pub const RPC_METHOD: &str = "rpc.method";
/// The canonical code, such as `NOT_FOUND`.
pub const RPC_RESPONSE_STATUS_CODE: &str = "rpc.response.status_code";
/// Host of the service that is called.
pub const SERVER_ADDRESS: &str = "server.address";
/// Port of the service that is called.
pub const SERVER_PORT: &str = "server.port";
/// The peer, as the index sees it: behind a proxy or a load balancer, whom that names.
pub const CLIENT_ADDRESS: &str = "client.address";
/// The peer's port.
pub const CLIENT_PORT: &str = "client.port";
/// Who is at the other end of the connection.
pub const NETWORK_PEER_ADDRESS: &str = "network.peer.address";
/// `redis`.
pub const DB_SYSTEM_NAME: &str = "db.system.name";
/// The command.
pub const DB_OPERATION_NAME: &str = "db.operation.name";
/// How many changes travelled in one call, when more than one.
pub const DB_OPERATION_BATCH_SIZE: &str = "db.operation.batch.size";
/// The script that is called.
pub const DB_STORED_PROCEDURE_NAME: &str = "db.stored_procedure.name";
/// The class of what went wrong.
pub const ERROR_TYPE: &str = "error.type";
/// The operation that the peer asked for.
pub const OPERATION: &str = "lonja.operation";
/// The encoding of the request: `terminated` or `padded`.
pub const DIALECT: &str = "lonja.dialect";
/// The status that the peer was told.
pub const STATUS: &str = "lonja.status";

//! A service's unary methods without HTTP between: serialized request in, response out.

use bytes::Bytes;
use tonic::Status;

/// Answers the unary methods that are called most. HTTP would cost more than the answer.
#[tonic::async_trait]
pub trait Unary: Send + Sync + 'static {
    /// Answers a serialized request of the method with this path
    /// (see [`lonja_proto::Method`]).
    ///
    /// # Errors
    /// What the method says; [`unknown`] when there is none of this path.
    async fn answer(&self, path: &str, request: Bytes) -> Result<Bytes, Status>;
}

/// What is said of a path that is no such method's.
#[must_use]
pub fn unknown() -> Status {
    Status::unimplemented("no method that may be called in a batch")
}

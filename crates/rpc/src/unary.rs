//! A service's unary methods without HTTP between: serialized request in, response out.

use bytes::Bytes;
use tonic::Status;

/// Answers the unary methods that are called most, for which HTTP would cost more than the answer.
#[tonic::async_trait]
pub trait Unary: Send + Sync + 'static {
    /// Answers a serialized request of the method with this path
    /// (see [`lonja_proto::Method`]).
    ///
    /// # Errors
    /// The error that the method gives, or [`unknown`] if no such method has this path.
    async fn answer(&self, path: &str, request: Bytes) -> Result<Bytes, Status>;

    /// Whether calls are held now: the service waits for its store, which is being restarted.
    fn holds(&self) -> bool {
        false
    }
}

/// The error for a path that is not the path of a method of [`Unary`].
#[must_use]
pub fn unknown() -> Status {
    Status::unimplemented("no method that may be called in a batch")
}

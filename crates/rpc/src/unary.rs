//! A service's unary methods without HTTP between: serialized request in, response out.

use bytes::Bytes;
use prost::Message;
use tonic::{Request, Response, Status};

use crate::method::Method;

/// Answers the calls that come in batches. The implementation is generated for each service, from the
/// option `batched` of the methods.
#[tonic::async_trait]
pub trait Unary: Send + Sync + 'static {
    /// The method with this path; `None` if there is none, or if its calls do not come in batches.
    fn method(&self, path: &str) -> Option<Method>;

    /// Answers a serialized request of a method.
    ///
    /// # Errors
    /// The error that the method gives; [`unknown`] for a method that [`Self::method`] does not give.
    async fn answer(&self, method: Method, request: Bytes) -> Result<Bytes, Status>;
}

/// The error for a method that may not be called in a batch.
#[must_use]
pub fn unknown() -> Status {
    Status::unimplemented("no method that may be called in a batch")
}

/// Decodes a request, has `handler` answer it, and encodes the response.
///
/// # Errors
/// What the handler says; `INTERNAL` when the bytes are not a request of this type.
pub async fn serialized<Q, A, F>(
    request: Bytes,
    handler: impl FnOnce(Request<Q>) -> F,
) -> Result<Bytes, Status>
where
    Q: Message + Default,
    A: Message,
    F: Future<Output = Result<Response<A>, Status>>,
{
    let answer = handler(Request::new(decode(request)?)).await?;
    Ok(answer.get_ref().encode_to_vec().into())
}

/// The message of type `M` that the bytes hold.
///
/// # Errors
/// `INTERNAL` when the bytes are not a message of this type: the code that a caller over HTTP gets too.
pub(crate) fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, Status> {
    M::decode(bytes).map_err(|error| Status::internal(error.to_string()))
}

//! The unary methods that services call most, as values, so that a call can travel without an HTTP
//! request of its own. A test compares the methods with the protos.

use std::marker::PhantomData;

use bytes::Bytes;
use prost::Message;
use tonic::{Request, Response, Status};

use crate::{audit, catalog, registry};

/// The paths of all methods that this crate has as values.
const PATHS: [&str; 11] = [
    registry::REGISTER_USER.path,
    registry::UNREGISTER_USER.path,
    registry::OPEN_SESSION.path,
    registry::CLOSE_SESSION.path,
    registry::GET_SESSION.path,
    registry::NOTE_DIALECT.path,
    registry::GET_REMOTE_SESSION.path,
    catalog::PUBLISH_FILE.path,
    catalog::DELETE_FILE.path,
    catalog::END_SESSION.path,
    audit::RECORD_OPERATIONS.path,
];

/// Gives the static path that is equal to `path`, if this crate has such a method as a value.
#[must_use]
pub fn known_path(path: &str) -> Option<&'static str> {
    PATHS.into_iter().find(|known| *known == path)
}

/// A unary method: its path, with the types of its request and its response.
#[derive(Debug)]
pub struct Method<Q, A> {
    path: &'static str,
    types: PhantomData<fn(Q) -> A>,
}

impl<Q: Message + Default, A: Message + Default> Method<Q, A> {
    pub(crate) const fn new(path: &'static str) -> Self {
        Self { path, types: PhantomData }
    }

    /// The method's path in HTTP, such as `/lonja.registry.v1.RegistryService/GetSession`.
    #[must_use]
    pub const fn path(&self) -> &'static str {
        self.path
    }

    /// Decodes a request, has the handler answer the request, and encodes the response.
    ///
    /// # Errors
    /// What the handler says; `INTERNAL` when the bytes are not a request of this method.
    pub async fn answer<F>(
        &self,
        request: Bytes,
        handler: impl FnOnce(Request<Q>) -> F,
    ) -> Result<Bytes, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let answer = handler(Request::new(decode(request)?)).await?;
        Ok(answer.get_ref().encode_to_vec().into())
    }

    /// Encodes a request.
    #[must_use]
    pub fn request(&self, request: &Q) -> Bytes {
        request.encode_to_vec().into()
    }

    /// Decodes a response.
    ///
    /// # Errors
    /// `INTERNAL` when the bytes are not a response of this method.
    pub fn response(&self, response: Bytes) -> Result<A, Status> {
        decode(response)
    }
}

fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, Status> {
    // The status is the same as when the message comes over HTTP.
    M::decode(bytes).map_err(|error| Status::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::DESCRIPTORS;

    /// The path of each method, with the names of its request and its response.
    fn all() -> [(&'static str, String, String); 11] {
        fn of<Q, A>(method: &Method<Q, A>) -> (&'static str, String, String) {
            let name = |full: &str| full.rsplit("::").next().unwrap().to_owned();
            (method.path, name(std::any::type_name::<Q>()), name(std::any::type_name::<A>()))
        }
        [
            of(&registry::REGISTER_USER),
            of(&registry::UNREGISTER_USER),
            of(&registry::OPEN_SESSION),
            of(&registry::CLOSE_SESSION),
            of(&registry::GET_SESSION),
            of(&registry::NOTE_DIALECT),
            of(&registry::GET_REMOTE_SESSION),
            of(&catalog::PUBLISH_FILE),
            of(&catalog::DELETE_FILE),
            of(&catalog::END_SESSION),
            of(&audit::RECORD_OPERATIONS),
        ]
    }

    #[test]
    fn each_is_what_the_protos_say() {
        let mut described = HashSet::new();
        for file in FileDescriptorSet::decode(DESCRIPTORS).unwrap().file {
            for service in &file.service {
                for method in &service.method {
                    let name = |full: &str| full.rsplit('.').next().unwrap().to_owned();
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let unary = !method.client_streaming() && !method.server_streaming();
                    described.insert((path, name(method.input_type()), name(method.output_type()), unary));
                }
            }
        }
        assert_eq!(all().map(|(path, ..)| path), PATHS);
        for (path, request, response) in all() {
            let method = (path.to_owned(), request, response, true);
            assert!(described.contains(&method), "{method:?}");
        }
    }
}

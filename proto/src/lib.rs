//! The gRPC services of Lonja, generated from `proto/lonja`, and the table of the
//! reasons for which they refuse what was asked.

mod failure;
mod method;
mod reason;
mod session_id;

pub use failure::Failure;
pub use method::{Method, known_path};
pub use reason::{Reason, UnknownReason};
pub use session_id::SessionId;

#[allow(
    missing_docs,
    clippy::all,
    unused_qualifications,
    unreachable_pub,
    reason = "generated code; the protos carry the documentation"
)]
mod generated {
    pub mod registry {
        include!("generated/lonja.registry.v1.rs");
    }
    pub mod catalog {
        include!("generated/lonja.catalog.v1.rs");
    }
    pub mod audit {
        // The code of the console refers to this package as `audit::v1`.
        pub mod v1 {
            include!("generated/lonja.audit.v1.rs");
        }
        pub use v1::*;
    }
    pub mod batch {
        include!("generated/lonja.batch.v1.rs");
    }
    pub mod console {
        include!("generated/lonja.console.v1.rs");
    }
}

/// `lonja.registry.v1`: users and sessions.
pub mod registry {
    use crate::Method;
    pub use crate::generated::registry::*;
    /// The full name of the service, under which its health is asked.
    pub const SERVICE_NAME: &str = registry_service_server::SERVICE_NAME;
    /// The method that adds a user.
    pub const REGISTER_USER: Method<RegisterUserRequest, RegisterUserResponse> =
        Method::new("/lonja.registry.v1.RegistryService/RegisterUser");
    /// The method that removes a user and ends the user's session, if any.
    pub const UNREGISTER_USER: Method<UnregisterUserRequest, UnregisterUserResponse> =
        Method::new("/lonja.registry.v1.RegistryService/UnregisterUser");
    /// The method that opens a session of a user.
    pub const OPEN_SESSION: Method<OpenSessionRequest, OpenSessionResponse> =
        Method::new("/lonja.registry.v1.RegistryService/OpenSession");
    /// The method that ends a user's session.
    pub const CLOSE_SESSION: Method<CloseSessionRequest, CloseSessionResponse> =
        Method::new("/lonja.registry.v1.RegistryService/CloseSession");
    /// The method that gives a user's session.
    pub const GET_SESSION: Method<GetSessionRequest, GetSessionResponse> =
        Method::new("/lonja.registry.v1.RegistryService/GetSession");
    /// The method that keeps in a user's session how the user's peer reads replies.
    pub const NOTE_DIALECT: Method<NoteDialectRequest, NoteDialectResponse> =
        Method::new("/lonja.registry.v1.RegistryService/NoteDialect");
    /// The method that gives a remote user's session to a connected user.
    pub const GET_REMOTE_SESSION: Method<GetRemoteSessionRequest, GetRemoteSessionResponse> =
        Method::new("/lonja.registry.v1.RegistryService/GetRemoteSession");
}

/// `lonja.catalog.v1`: what each session published.
pub mod catalog {
    use crate::Method;
    pub use crate::generated::catalog::*;
    /// The full name of the service, under which its health is asked.
    pub const SERVICE_NAME: &str = catalog_service_server::SERVICE_NAME;
    /// The method that adds a file to a session's list.
    pub const PUBLISH_FILE: Method<PublishFileRequest, PublishFileResponse> =
        Method::new("/lonja.catalog.v1.CatalogService/PublishFile");
    /// The method that takes a file off a session's list.
    pub const DELETE_FILE: Method<DeleteFileRequest, DeleteFileResponse> =
        Method::new("/lonja.catalog.v1.CatalogService/DeleteFile");
    /// The method that drops a session's list.
    pub const END_SESSION: Method<EndSessionRequest, EndSessionResponse> =
        Method::new("/lonja.catalog.v1.CatalogService/EndSession");
}

/// `lonja.audit.v1`: every operation, in order.
pub mod audit {
    use crate::Method;
    pub use crate::generated::audit::*;
    /// The full name of the service, under which its health is asked.
    pub const SERVICE_NAME: &str = audit_service_server::SERVICE_NAME;
    /// The method that stores a batch of records.
    pub const RECORD_OPERATIONS: Method<RecordOperationsRequest, RecordOperationsResponse> =
        Method::new("/lonja.audit.v1.AuditService/RecordOperations");
}

/// `lonja.batch.v1`: batches, which carry several calls in one message.
pub mod batch {
    pub use crate::generated::batch::*;
}

/// `lonja.console.v1`: the index as people see it in the console.
pub mod console {
    pub use crate::generated::console::*;
    /// The full name of the service, under which its health is asked.
    pub const SERVICE_NAME: &str = console_service_server::SERVICE_NAME;
}

/// All protos as a serialized `FileDescriptorSet`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");

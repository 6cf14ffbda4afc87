//! The gRPC services of Lonja, generated from `proto/lonja`, and the table of the
//! reasons for which they refuse what was asked.

mod failure;
mod reason;
mod session_id;

pub use failure::Failure;
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
    pub mod admin {
        include!("generated/lonja.admin.v1.rs");
    }
    pub mod console {
        include!("generated/lonja.console.v1.rs");
    }
}

/// `lonja.registry.v1`: users and sessions.
pub mod registry {
    pub use crate::generated::registry::*;
    /// The full name of the service, under which its health is asked.
    pub const SERVICE_NAME: &str = registry_service_server::SERVICE_NAME;
}

/// `lonja.catalog.v1`: what each session published.
pub mod catalog {
    pub use crate::generated::catalog::*;
    /// The full name of the service, under which its health is asked.
    pub const SERVICE_NAME: &str = catalog_service_server::SERVICE_NAME;
}

/// `lonja.audit.v1`: every operation, in order.
pub mod audit {
    pub use crate::generated::audit::*;
    /// The full name of the service, under which its health is asked.
    pub const SERVICE_NAME: &str = audit_service_server::SERVICE_NAME;
}

/// `lonja.admin.v1`: what an operator does by hand.
pub mod admin {
    pub use crate::generated::admin::*;
    /// The full name of the service.
    pub const SERVICE_NAME: &str = admin_service_server::SERVICE_NAME;
}

/// `lonja.console.v1`: the index as people see it in the console.
pub mod console {
    pub use crate::generated::console::*;
    /// The full name of the service, under which its health is asked.
    pub const SERVICE_NAME: &str = console_service_server::SERVICE_NAME;
}

/// All protos as a serialized `FileDescriptorSet`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");

//! Methods of services, as values.

/// A method of a service. The generated code of a service has a constant for each of its methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method(&'static str);

impl Method {
    /// Makes the value for the method with this path in HTTP, such as
    /// `/lonja.registry.v1.RegistryService/GetSession`.
    #[must_use]
    pub const fn new(path: &'static str) -> Self {
        Self(path)
    }

    /// The path of the method in HTTP.
    #[must_use]
    pub const fn path(self) -> &'static str {
        self.0
    }

    /// The name of the method in traces, metrics and logs: its path without the slash in front.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.trim_start_matches('/')
    }
}

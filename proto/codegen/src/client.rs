//! What tonic does not generate: for each service whose calls may travel in batches, a client through
//! which all methods are called, and the answers to calls in batches.

#![expect(clippy::expect_used, reason = "a proto that cannot be used stops the generator")]

use std::collections::HashSet;

use proc_macro2::TokenStream;
use prost_build::{Comments, Method, Service, ServiceGenerator};
use prost_reflect::{DescriptorPool, Value};
use quote::{format_ident, quote};

/// The option of a method that may be called in a batch.
const BATCHED: &str = "lonja.batch.v1.batched";

/// Generates tonic's code of a service, and behind that code what [`Named`] names.
pub(crate) struct Generator {
    tonic: Box<dyn ServiceGenerator>,
    batched: HashSet<String>,
}

impl Generator {
    /// Makes a generator for the services of `pool`.
    pub(crate) fn new(pool: &DescriptorPool) -> Self {
        Self { tonic: tonic_prost_build::configure().service_generator(), batched: batched(pool) }
    }
}

impl ServiceGenerator for Generator {
    fn generate(&mut self, service: Service, code: &mut String) {
        let client = Named::new(&service).generate(&self.batched);
        self.tonic.generate(service, code);
        code.extend(client.map(|client| prettyplease::unparse(&syn::parse2(client).expect("Rust"))));
    }

    fn finalize(&mut self, code: &mut String) {
        self.tonic.finalize(code);
    }

    fn finalize_package(&mut self, package: &str, code: &mut String) {
        self.tonic.finalize_package(package, code);
    }
}

/// The paths of the methods that have the option [`BATCHED`].
fn batched(pool: &DescriptorPool) -> HashSet<String> {
    let option = pool.get_extension_by_name(BATCHED).expect("batch.proto has the option");
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let has_option = methods.filter(|method| *method.options().get_extension(&option) == Value::Bool(true));
    has_option.map(|method| path(method.parent_service().full_name(), method.name())).collect()
}

fn path(service: &str, method: &str) -> String {
    format!("/{service}/{method}")
}

/// A service, and the names of what is generated for it. `RegistryService` has a `RegistryClient`.
struct Named<'a> {
    service: &'a Service,
    /// The module of tonic's trait, such as `registry_service_server`.
    server: TokenStream,
    /// The module of tonic's client.
    client: TokenStream,
    /// The name without `Service`.
    short: &'a str,
}

impl<'a> Named<'a> {
    fn new(service: &'a Service) -> Self {
        let short = service.name.strip_suffix("Service").unwrap_or(&service.name);
        let module = |end: &str| {
            let name = format_ident!("{}_service_{end}", short.to_lowercase());
            quote!(#name)
        };
        Self { service, server: module("server"), client: module("client"), short }
    }

    /// The code; `None` for a service of which no method may be called in a batch.
    fn generate(&self, batched: &HashSet<String>) -> Option<TokenStream> {
        let in_batches: Vec<_> =
            self.service.methods.iter().filter(|method| batched.contains(&self.path(method))).collect();
        if in_batches.is_empty() {
            return None;
        }
        let (methods, client, unary) = (self.methods(), self.client(batched), self.unary(&in_batches));
        Some(quote! { #methods #client #unary })
    }

    fn path(&self, method: &Method) -> String {
        path(&format!("{}.{}", self.service.package, self.service.proto_name), &method.proto_name)
    }

    /// A constant for each method.
    fn methods(&self) -> TokenStream {
        let constants = self.service.methods.iter().map(|method| {
            let (constant, path) = (constant(method), self.path(method));
            let comment = format!(" Names what [`super::{}Client::{}`] calls.", self.short, method.name);
            quote! { #[doc = #comment] pub const #constant: ::lonja_rpc::Method = ::lonja_rpc::Method::new(#path); }
        });
        let comment = format!(" The methods of `{}`, as values.", self.service.proto_name);
        quote! {
            #[doc = #comment]
            pub mod methods { #(#constants)* }
        }
    }

    /// The trait of an implementation in this process.
    fn implementation(&self) -> TokenStream {
        let (server, name) = (&self.server, format_ident!("{}", self.service.name));
        let streams = self.service.methods.iter().filter(|method| method.server_streaming).map(|method| {
            let (stream, output) = (format_ident!("{}Stream", method.proto_name), rust(&method.output_type));
            quote! { #stream = ::lonja_rpc::Pages<#output> }
        });
        quote! { #server::#name<#(#streams),*> }
    }

    /// The client, with a method for each method of the service.
    fn client(&self, batched: &HashSet<String>) -> TokenStream {
        let service = &self.service.proto_name;
        let comment = format!(
            " Calls `{service}`, in this process or across the network. Clones call the same service."
        );
        let of_local = format!(" Any implementation of `{service}` in this process.");
        let implementation = self.implementation();
        let (local, client) = (format_ident!("Local{}", self.short), format_ident!("{}Client", self.short));
        let methods = self.service.methods.iter().map(|method| self.call(method, batched));
        quote! {
            #[doc = #of_local]
            type #local = dyn #implementation;

            #[doc = #comment]
            #[derive(Debug, Clone)]
            pub struct #client(::lonja_rpc::Target<#local>);

            impl #client {
                /// Makes a client of a service in this process. Messages go by value.
                #[must_use]
                pub fn local(service: impl #implementation) -> Self {
                    Self(::lonja_rpc::Target::Local(::std::sync::Arc::new(service)))
                }

                /// Makes a client of a service across the network.
                #[must_use]
                pub fn remote(channel: ::lonja_rpc::Channel) -> Self {
                    Self(::lonja_rpc::Target::Remote(channel))
                }

                /// Whether the service has just said that it holds calls, because its store is being
                /// restarted.
                #[must_use]
                pub fn is_held(&self) -> bool {
                    self.0.is_held()
                }

                #(#methods)*
            }
        }
    }

    /// The client's method that calls `method`.
    fn call(&self, method: &Method, batched: &HashSet<String>) -> TokenStream {
        let is_batched = batched.contains(&self.path(method));
        assert!(!method.client_streaming, "{}: a stream cannot be sent to a method", method.proto_name);
        assert!(!(is_batched && method.server_streaming), "{}: a stream is in no batch", method.proto_name);
        let comment = doc(&method.comments);
        let (name, constant) = (format_ident!("{}", method.name), constant(method));
        let (input, output) = (rust(&method.input_type), rust(&method.output_type));
        let (tonic, module) = (format_ident!("{}Client", self.service.name), &self.client);
        let over_http = quote! { #module::#tonic::new(channel.clone()).#name(request).await };
        let (output, local, remote) = match (method.server_streaming, is_batched) {
            (true, _) => (
                quote! { ::lonja_rpc::Pages<#output> },
                quote! { local_stream },
                quote! { #over_http.map(|pages| -> ::lonja_rpc::Pages<#output> { Box::pin(pages.into_inner()) }) },
            ),
            (false, true) => {
                (output, quote! { local }, quote! { channel.call(methods::#constant, &request).await })
            }
            (false, false) => {
                (output, quote! { local }, quote! { #over_http.map(::tonic::Response::into_inner) })
            }
        };
        quote! {
            #comment
            pub async fn #name(&self, request: #input) -> ::std::result::Result<#output, ::tonic::Status> {
                match &self.0 {
                    ::lonja_rpc::Target::Local(service) => {
                        let answer = service.#name(::tonic::Request::new(request));
                        ::lonja_rpc::#local(methods::#constant, answer).await
                    }
                    ::lonja_rpc::Target::Remote(channel) => #remote,
                }
            }
        }
    }

    /// The answers to calls in batches.
    fn unary(&self, in_batches: &[&Method]) -> TokenStream {
        let (server, name) = (&self.server, format_ident!("{}", self.service.name));
        let unary = format_ident!("{}Unary", self.short);
        let comment = format!(" Answers the calls of `{}` that come in batches.", self.service.proto_name);
        let constants: Vec<_> = in_batches.iter().map(|method| constant(method)).collect();
        let names = in_batches.iter().map(|method| format_ident!("{}", method.name));
        quote! {
            #[doc = #comment]
            #[derive(Debug)]
            pub struct #unary<S>(pub ::std::sync::Arc<S>);

            #[::tonic::async_trait]
            impl<S: #server::#name> ::lonja_rpc::Unary for #unary<S> {
                fn method(&self, path: &str) -> ::std::option::Option<::lonja_rpc::Method> {
                    [#(methods::#constants),*].into_iter().find(|method| method.path() == path)
                }

                async fn answer(
                    &self,
                    method: ::lonja_rpc::Method,
                    request: ::bytes::Bytes,
                ) -> ::std::result::Result<::bytes::Bytes, ::tonic::Status> {
                    match method {
                        #(methods::#constants => {
                            ::lonja_rpc::serialized(request, |request| self.0.#names(request)).await
                        })*
                        _ => Err(::lonja_rpc::unknown()),
                    }
                }
            }
        }
    }
}

fn constant(method: &Method) -> proc_macro2::Ident {
    format_ident!("{}", method.name.trim_start_matches("r#").to_uppercase())
}

fn rust(name: &str) -> TokenStream {
    name.parse().expect("prost gives Rust types")
}

/// The doc comment that says what a comment of a proto says.
fn doc(comments: &Comments) -> TokenStream {
    // prettyplease prints the text right behind the slashes.
    let lines = comments.leading.iter().map(|line| match line.is_empty() || line.starts_with(' ') {
        true => line.clone(),
        false => format!(" {line}"),
    });
    quote! { #(#[doc = #lines])* }
}

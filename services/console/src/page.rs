//! The page, as it was built by `make page` and embedded in the binary.

use axum::{
    body::Body,
    http::{HeaderValue, Method, Response, StatusCode, Uri, header},
};
use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "web/dist"]
#[allow_missing = true]
struct Page;

/// What is said where the page is not part of the build.
pub(crate) const MISSING: &str =
    "the console's page is not part of this build: run `make page` (it needs Node.js) and build again";

/// Nothing from elsewhere, no script or style but the page's own files, and nobody may
/// frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

pub(crate) fn is_missing() -> bool {
    Page::get("index.html").is_none()
}

/// A file of the page.
pub(crate) async fn serve(method: Method, uri: Uri) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        return answer(
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            "no-store",
            "only pages are here\n".into(),
        );
    }
    let path = match uri.path().trim_start_matches('/') {
        "" => "index.html",
        path => path,
    };
    match Page::get(path) {
        Some(file) => {
            // The name of an asset has its hash in it.
            let cache =
                if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
            answer(StatusCode::OK, file.metadata.mimetype(), cache, file.data.into_owned().into())
        }
        None if path == "index.html" => {
            answer(StatusCode::NOT_FOUND, "text/plain", "no-store", format!("{MISSING}\n").into())
        }
        None => answer(StatusCode::NOT_FOUND, "text/plain", "no-store", "no such page\n".into()),
    }
}

fn answer(status: StatusCode, content_type: &str, cache: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let text = if content_type.starts_with("text/") { "; charset=utf-8" } else { "" };
    let headers = response.headers_mut();
    if let Ok(content_type) = HeaderValue::from_str(&format!("{content_type}{text}")) {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    for (name, value) in [
        (header::CACHE_CONTROL, cache),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

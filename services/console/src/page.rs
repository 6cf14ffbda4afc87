//! The page: four files that `make page` builds and that are committed, so that every build of
//! Lonja has them.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::LazyLock,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header},
};

/// The files of the page: path, content type and content.
static FILES: [(&str, &str, &[u8]); 4] = [
    ("/", "text/html; charset=utf-8", include_bytes!("../web/dist/index.html")),
    ("/console.js", "text/javascript; charset=utf-8", include_bytes!("../web/dist/console.js")),
    ("/console.css", "text/css; charset=utf-8", include_bytes!("../web/dist/console.css")),
    ("/icon.svg", "image/svg+xml", include_bytes!("../web/dist/icon.svg")),
];

/// The entity tag of all files together. A browser that has the current files is answered 304, with
/// no content.
static TAG: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let mut hasher = DefaultHasher::new();
    FILES.hash(&mut hasher);
    HeaderValue::from_str(&format!("\"{:016x}\"", hasher.finish())).ok()
});

/// The content security policy: nothing comes from other origins, scripts and styles only from the
/// page's own files, and no other page may show this page in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// Answers a request with a file of the page.
pub(crate) async fn serve(method: Method, uri: Uri, headers: HeaderMap) -> Response<Body> {
    let text = "text/plain; charset=utf-8";
    if method != Method::GET && method != Method::HEAD {
        return answer(StatusCode::METHOD_NOT_ALLOWED, text, b"only GET and HEAD are answered here\n");
    }
    let Some((_, content_type, content)) = FILES.iter().find(|(path, ..)| *path == uri.path()) else {
        return answer(StatusCode::NOT_FOUND, text, b"no such page\n");
    };
    let is_known = TAG.is_some() && headers.get(header::IF_NONE_MATCH) == TAG.as_ref();
    let mut response = if is_known {
        answer(StatusCode::NOT_MODIFIED, content_type, b"")
    } else {
        answer(StatusCode::OK, content_type, content)
    };
    if let Some(tag) = &*TAG {
        response.headers_mut().insert(header::ETAG, tag.clone());
    }
    response
}

fn answer(status: StatusCode, content_type: &'static str, content: &'static [u8]) -> Response<Body> {
    let mut response = Response::new(Body::from(content));
    *response.status_mut() = status;
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

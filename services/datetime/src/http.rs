//! The service over HTTP: the WSDL and the bare time by GET, calls by POST.

use std::time::Duration;

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    extract::RawQuery,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Zoned;
use lonja_chassis::{http::Caller, networks::Networks};
use tokio::time::timeout;

use crate::{
    address::address,
    soap::{self, BadCall},
    wsdl::wsdl,
};

/// The largest size of a call, in bytes.
const MAX_CALL: usize = 64 << 10;
/// How long a call may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// The routes of the service. Callers in the networks `proxies` say in headers at which address their
/// own caller asked.
pub(crate) fn router(proxies: Networks) -> Router {
    let bare = get(bare_time);
    let describe = move |query, caller, headers| describe(query, caller, headers, proxies.clone());
    Router::new()
        .route("/", get(describe).post(call))
        .route("/datetime", bare.clone())
        .route("/get_time", bare)
}

fn xml(status: StatusCode, document: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/xml; charset=utf-8")], document).into_response()
}

async fn describe(
    RawQuery(query): RawQuery,
    Extension(Caller(caller)): Extension<Caller>,
    headers: HeaderMap,
    proxies: Networks,
) -> Response {
    let asked = query.is_some_and(|query| query.trim_end_matches('=').eq_ignore_ascii_case("wsdl"));
    if !asked {
        let advice = "POST a SOAP call here; its WSDL is at /?wsdl\n";
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")], advice).into_response();
    }
    xml(StatusCode::OK, wsdl(&address(&headers, proxies.contain(caller.ip()))))
}

/// Answers peers that ask without SOAP: with the time alone, or in JSON for those that accept only
/// that. One kind of peer does not say so, and asks at an address that nobody else uses.
async fn bare_time(headers: HeaderMap) -> Response {
    metrics::counter!("lonja_datetime_requests_total", "result" => "ok").increment(1);
    let says = |name, what: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.starts_with(what))
    };
    let time = format_time(&Zoned::now());
    let (content_type, body) = if says(header::ACCEPT, "application/json") || says(header::HOST, "127.0.0.0")
    {
        ("application/json", format!("{{\"datetime\": \"{time}\"}}"))
    } else {
        ("text/plain; charset=utf-8", time)
    };
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

async fn call(body: Body) -> Response {
    let answer = read(body).await.and_then(|message| soap::read_call(&message));
    let result = if answer.is_ok() { "ok" } else { "fault" };
    metrics::counter!("lonja_datetime_requests_total", "result" => result).increment(1);
    match answer {
        Ok(operation) => xml(StatusCode::OK, soap::answer(operation, &format_time(&Zoned::now()))),
        Err(bad) => xml(StatusCode::INTERNAL_SERVER_ERROR, soap::fault(bad)),
    }
}

async fn read(body: Body) -> Result<axum::body::Bytes, BadCall> {
    let whole = timeout(PATIENCE, to_bytes(body, MAX_CALL + 1)).await.map_err(|_| BadCall::Incomplete)?;
    match whole {
        Ok(message) if message.len() <= MAX_CALL => Ok(message),
        // Every error counts as too large: any other error is a broken connection, where nobody
        // reads the answer.
        Ok(_) | Err(_) => Err(BadCall::TooLarge),
    }
}

/// Formats a time as `dd/mm/yyyy hh:mm:ss`: 19 characters for every year that peers will see.
fn format_time(time: &Zoned) -> String {
    time.strftime("%d/%m/%Y %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_local_and_19_characters() {
        let time: Zoned = "2024-05-12T10:00:00+02:00[Europe/Madrid]".parse().unwrap();
        assert_eq!(format_time(&time), "12/05/2024 10:00:00");
        let early: Zoned = "2024-01-02T03:04:05-05:00[America/New_York]".parse().unwrap();
        assert_eq!(format_time(&early), "02/01/2024 03:04:05");
    }
}

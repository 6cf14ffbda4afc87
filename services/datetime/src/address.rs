//! The address at which a caller asked, which the WSDL names (docs/protocol.md 5).

use http::{HeaderMap, header, uri::Authority};

/// The URL at which the request with these headers came in. A proxy that is `trusted` says in
/// `Forwarded` (RFC 7239) or in `X-Forwarded-Proto`, `-Host`, `-Port` and `-Prefix` at which URL its
/// own caller asked. Of a chain of proxies, what the first says counts: the caller asked that one.
pub(crate) fn address(headers: &HeaderMap, trusted: bool) -> String {
    let host = text(headers, header::HOST.as_str()).unwrap_or("localhost:8000");
    if !trusted {
        return format!("http://{host}/");
    }
    let forwarded = text(headers, header::FORWARDED.as_str()).unwrap_or_default();
    let said = |name: &str| said(forwarded, name).or_else(|| first(headers, &format!("x-forwarded-{name}")));
    let scheme = said("proto").filter(|scheme| *scheme == "https").unwrap_or("http");
    let host = said("host").filter(|host| host.parse::<Authority>().is_ok()).unwrap_or(host);
    let port = first(headers, "x-forwarded-port").and_then(|port| port.parse::<u16>().ok());
    let default = if scheme == "https" { 443 } else { 80 };
    let has_port = host.parse::<Authority>().is_ok_and(|host| host.port().is_some());
    let port = port.filter(|port| !has_port && *port != default).map(|port| format!(":{port}"));
    let prefix = first(headers, "x-forwarded-prefix").filter(|prefix| is_path(prefix)).unwrap_or_default();
    format!("{scheme}://{host}{}{}/", port.unwrap_or_default(), prefix.trim_end_matches('/'))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The first of the values that proxies have put into a header, separated by commas.
fn first<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    text(headers, name)?.split(',').next().map(str::trim).filter(|value| !value.is_empty())
}

/// The value of a parameter of the first element of `Forwarded`.
fn said<'a>(forwarded: &'a str, name: &str) -> Option<&'a str> {
    let parameters = forwarded.split(',').next()?.split(';');
    let value = parameters
        .filter_map(|parameter| parameter.trim().split_once('='))
        .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"')))?;
    (!value.is_empty()).then_some(value)
}

fn is_path(prefix: &str) -> bool {
    prefix.starts_with('/')
        && prefix.parse::<http::uri::PathAndQuery>().is_ok_and(|path| path.query().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address_of(headers: &[(&'static str, &str)], trusted: bool) -> String {
        let pairs = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        address(&pairs.collect::<HeaderMap>(), trusted)
    }

    #[test]
    fn a_trusted_proxy_says_where_its_caller_asked() {
        for (headers, expected) in [
            (&[("host", "time:8000")][..], "http://time:8000/"),
            (
                &[("host", "a"), ("forwarded", "for=1.2.3.4;host=time.example;proto=https")],
                "https://time.example/",
            ),
            (&[("host", "a"), ("forwarded", "Proto=https; Host=\"b:8443\", host=inner")], "https://b:8443/"),
            (&[("host", "a"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "b, c")], "https://b/"),
            (
                &[("host", "a"), ("x-forwarded-proto", "https"), ("x-forwarded-port", "8443")],
                "https://a:8443/",
            ),
            (&[("host", "a:80"), ("x-forwarded-port", "8443")], "http://a:80/"),
            (&[("host", "a"), ("x-forwarded-proto", "https"), ("x-forwarded-port", "443")], "https://a/"),
            (&[("host", "a"), ("x-forwarded-prefix", "/time/")], "http://a/time/"),
            // What no proxy says is left out.
            (&[("host", "a"), ("x-forwarded-proto", "gopher"), ("x-forwarded-host", "b c")], "http://a/"),
            (&[("host", "a"), ("x-forwarded-prefix", "time"), ("x-forwarded-port", "x")], "http://a/"),
            (&[("host", "a"), ("forwarded", "host=;proto")], "http://a/"),
            (&[], "http://localhost:8000/"),
        ] {
            assert_eq!(address_of(headers, true), expected, "{headers:?}");
        }
    }

    #[test]
    fn nobody_else_is_believed() {
        let headers = [("host", "a"), ("forwarded", "host=b;proto=https"), ("x-forwarded-host", "b")];
        assert_eq!(address_of(&headers, false), "http://a/");
    }
}

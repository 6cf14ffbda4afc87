//! The place in a trace, as it travels with a call: W3C Trace Context.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::TraceContextExt as _,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;

use super::Parent;

struct Write<'a>(&'a mut HeaderMap);

impl Injector for Write<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (key.parse::<HeaderName>(), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

struct Read<'a>(&'a HeaderMap);

impl Extractor for Read<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

pub(super) fn inject(context: &Context, headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject_context(context, &mut Write(headers));
}

/// The caller's place in a trace, if that is sampled.
pub(super) fn extract(headers: &HeaderMap) -> Option<Parent> {
    // Most calls of an index that traces little have none.
    headers.get("traceparent")?;
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Read(headers));
    let span = context.span().span_context().clone();
    span.is_sampled().then(|| Parent::of(span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sampled_place_survives_the_way() {
        let mut headers = HeaderMap::new();
        let sampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert("traceparent", HeaderValue::from_static(sampled));
        let parent = extract(&headers).unwrap();
        let mut onward = HeaderMap::new();
        inject(&parent.context(), &mut onward);
        assert_eq!(onward["traceparent"], sampled);
    }

    #[test]
    fn what_is_not_sampled_or_malformed_is_none() {
        for header in ["", "nonsense", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"] {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", HeaderValue::from_static(header));
            assert!(extract(&headers).is_none(), "{header}");
        }
    }
}

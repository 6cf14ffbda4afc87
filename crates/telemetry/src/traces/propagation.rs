//! The place in a trace, as it travels with a call: the `traceparent` of W3C Trace Context.

use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::TraceContextExt as _,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;

use super::Parent;

/// The header in which a call carries its place in a trace.
pub const HEADER: &str = "traceparent";

struct Write(String);

impl Injector for Write {
    fn set(&mut self, key: &str, value: String) {
        if key == HEADER {
            self.0 = value;
        }
    }
}

struct Read<'a>(&'a str);

impl Extractor for Read<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == HEADER).then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![HEADER]
    }
}

/// Writes the place of a context as a `traceparent`; the text is empty outside of a trace.
pub(super) fn inject(context: &Context) -> String {
    let mut place = Write(String::new());
    TraceContextPropagator::new().inject_context(context, &mut place);
    place.0
}

/// Reads the caller's place in a trace. `None` if there is no place, the text is malformed, or the
/// trace is not sampled.
#[must_use]
pub fn extract(traceparent: &str) -> Option<Parent> {
    // Where few requests are traced, most calls have no `traceparent`.
    if traceparent.is_empty() {
        return None;
    }
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Read(traceparent));
    let sampled = context.span().span_context().is_sampled();
    sampled.then_some(Parent(context))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sampled_place_survives_the_way() {
        let sampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = extract(sampled).unwrap();
        assert_eq!(inject(&parent.context()), sampled);
    }

    #[test]
    fn what_is_not_sampled_or_malformed_is_none() {
        for header in ["", "nonsense", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"] {
            assert!(extract(header).is_none(), "{header}");
        }
    }
}

//! SOAP 1.1 messages: reading the call, writing the answer or a fault.

use quick_xml::{
    NsReader,
    escape::escape,
    events::{BytesStart, Event},
    name::ResolveResult,
};

use crate::wsdl::{NAMESPACE, OPERATIONS};

/// The namespace of SOAP 1.1 envelopes.
const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";

/// Why a call cannot be answered. Each reason is a mistake of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadCall {
    /// The message is larger than the service reads.
    #[error("the message is larger than 64 KiB")]
    TooLarge,
    /// The message did not arrive whole, or not in time.
    #[error("the message did not arrive whole")]
    Incomplete,
    /// The message has a document type declaration, which SOAP forbids.
    #[error("a document type declaration is not allowed")]
    Doctype,
    #[error("the message is not well-formed XML")]
    Malformed,
    #[error("the message is not a SOAP 1.1 envelope with a body")]
    NoEnvelope,
    #[error("a header with mustUnderstand is not supported")]
    MustUnderstand,
    #[error("no such operation: use datetime in http://tests.python-zeep.org/")]
    UnknownOperation,
}

/// The element in which the reader of a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    Envelope,
    Header,
    Body,
}

/// Reads which of the [`OPERATIONS`] a message calls.
pub(crate) fn read_call(message: &[u8]) -> Result<&'static str, BadCall> {
    let mut reader = NsReader::from_reader(message);
    reader.config_mut().expand_empty_elements = true;
    let mut depth = 0_usize;
    let mut place = Place::Outside;
    let mut called = None;
    let mut buffer = Vec::new();
    loop {
        match reader.read_event_into(&mut buffer).map_err(|_| BadCall::Malformed)? {
            Event::DocType(_) => return Err(BadCall::Doctype),
            Event::Start(element) => {
                let (namespace, name) = reader.resolver().resolve_element(element.name());
                let soap = is(&namespace, ENVELOPE);
                match (depth, place) {
                    (0, _) if soap && name.as_ref() == "Envelope" => place = Place::Envelope,
                    (0, _) => return Err(BadCall::NoEnvelope),
                    (1, _) if soap && name.as_ref() == "Header" => place = Place::Header,
                    (1, _) if soap && name.as_ref() == "Body" => place = Place::Body,
                    (1, _) => place = Place::Envelope,
                    (2, Place::Header) if must_understand(&reader, &element) => {
                        return Err(BadCall::MustUnderstand);
                    }
                    (2, Place::Body) => {
                        let known = OPERATIONS.into_iter().find(|known| name.as_ref() == *known);
                        let known = known.filter(|_| called.is_none() && is(&namespace, NAMESPACE));
                        called = Some(known.ok_or(BadCall::UnknownOperation)?);
                    }
                    _ => {}
                }
                depth += 1;
            }
            Event::End(_) => depth -= 1,
            Event::Eof if depth > 0 => return Err(BadCall::Malformed),
            Event::Eof if place == Place::Outside => return Err(BadCall::NoEnvelope),
            Event::Eof => return called.ok_or(BadCall::UnknownOperation),
            _ => {}
        }
        buffer.clear();
    }
}

fn is(namespace: &ResolveResult<'_>, expected: &str) -> bool {
    matches!(namespace, ResolveResult::Bound(bound) if bound.as_ref() == expected)
}

fn must_understand<R>(reader: &NsReader<R>, header: &BytesStart<'_>) -> bool {
    header.attributes().flatten().any(|attribute| {
        let (namespace, name) = reader.resolver().resolve_attribute(attribute.key);
        is(&namespace, ENVELOPE)
            && name.as_ref() == "mustUnderstand"
            && matches!(attribute.value.as_ref(), "1" | "true")
    })
}

/// The message that answers a call of an operation with the time.
pub(crate) fn answer(operation: &str, datetime: &str) -> String {
    envelope(&format!(
        "<tns:{operation}Response xmlns:tns=\"{NAMESPACE}\">\
         <tns:{operation}Result>{}</tns:{operation}Result></tns:{operation}Response>",
        escape(datetime)
    ))
}

/// The message of a fault with the code `Client`, which stands for a mistake of the caller, and
/// with the reason.
pub(crate) fn fault(bad: BadCall) -> String {
    envelope(&format!(
        "<soap:Fault><faultcode>soap:Client</faultcode><faultstring>{}</faultstring></soap:Fault>",
        escape(bad.to_string())
    ))
}

fn envelope(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
         <soap:Envelope xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\">\
         <soap:Body>{body}</soap:Body></soap:Envelope>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(header: &str, body: &str) -> String {
        format!(
            "<?xml version='1.0' encoding='utf-8'?>\n\
             <s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\">{header}<s:Body>{body}</s:Body></s:Envelope>"
        )
    }

    const DATETIME: &str = "<ns0:datetime xmlns:ns0=\"http://tests.python-zeep.org/\"/>";

    #[test]
    fn the_call_is_read_with_any_prefix() {
        assert_eq!(read_call(call("", DATETIME).as_bytes()), Ok("datetime"));
        let other = "<datetime xmlns=\"http://tests.python-zeep.org/\"></datetime>";
        assert_eq!(read_call(call("<s:Header/>", other).as_bytes()), Ok("datetime"));
    }

    #[test]
    fn each_operation_is_answered_under_its_name() {
        for name in OPERATIONS {
            let body = format!("<{name} xmlns=\"http://tests.python-zeep.org/\"/>");
            assert_eq!(read_call(call("", &body).as_bytes()), Ok(name));
            assert!(answer(name, "12/05/2024 10:00:00").contains(&format!(
                "<tns:{name}Result>12/05/2024 10:00:00</tns:{name}Result></tns:{name}Response>"
            )));
        }
    }

    #[test]
    fn what_is_no_call_is_refused() {
        let doctype = format!("<!DOCTYPE a [<!ENTITY b \"c\">]>{}", call("", DATETIME));
        let must = "<s:Header><a s:mustUnderstand=\"1\"/></s:Header>";
        let may = "<s:Header><a s:mustUnderstand=\"0\"/></s:Header>";
        let soap12 = call("", DATETIME)
            .replace("http://schemas.xmlsoap.org/soap/envelope/", "http://www.w3.org/2003/05/soap-envelope");
        let twice = format!("{DATETIME}{DATETIME}");
        for (message, expected) in [
            (doctype.as_str(), Err(BadCall::Doctype)),
            (&call(must, DATETIME), Err(BadCall::MustUnderstand)),
            (&call(may, DATETIME), Ok("datetime")),
            (&soap12, Err(BadCall::NoEnvelope)),
            (&call("", ""), Err(BadCall::UnknownOperation)),
            (&call("", "<datetime/>"), Err(BadCall::UnknownOperation)),
            (&call("", &twice), Err(BadCall::UnknownOperation)),
            ("", Err(BadCall::NoEnvelope)),
            ("hello", Err(BadCall::NoEnvelope)),
            ("<a><b></a>", Err(BadCall::NoEnvelope)),
            (&call("", "<a><b></a>"), Err(BadCall::UnknownOperation)),
            (&call("", DATETIME)[..150], Err(BadCall::Malformed)),
        ] {
            assert_eq!(read_call(message.as_bytes()), expected, "{message}");
        }
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        let deep = call("", DATETIME)
            .replace("<s:Body>", &format!("{}{}<s:Body>", "<a>".repeat(9000), "</a>".repeat(9000)));
        assert_eq!(read_call(deep.as_bytes()), Ok("datetime"));
    }
}

//! The contract that the peers' SOAP client reads before it calls (docs/protocol.md 5).

use std::fmt::Write as _;

use quick_xml::escape::escape;

/// The namespace of the operations and their messages.
pub(crate) const NAMESPACE: &str = "http://tests.python-zeep.org/";

/// The names of the operations. All do the same: the original asks for the first, and peers of other
/// authors ask for the others.
pub(crate) const OPERATIONS: [&str; 11] = [
    "datetime",
    "get_datetime",
    "get_time",
    "get_date_time",
    "get_date",
    "take_timestamp",
    "time_sv",
    "get_current_datetime",
    "obtener_fecha_hora",
    "GetDateTime",
    "send_date_hour",
];

/// The WSDL of a service that is called at this URL.
pub(crate) fn wsdl(address: &str) -> String {
    let mut document = String::from(
        r#"<?xml version="1.0" encoding="utf-8"?>
<wsdl:definitions xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/" xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:tns="http://tests.python-zeep.org/" targetNamespace="http://tests.python-zeep.org/" name="Application">
  <wsdl:types>
    <xs:schema targetNamespace="http://tests.python-zeep.org/" elementFormDefault="qualified">
"#,
    );
    each(&mut document, |name| {
        format!(
            r#"      <xs:complexType name="{name}"/>
      <xs:complexType name="{name}Response">
        <xs:sequence>
          <xs:element name="{name}Result" type="xs:string" minOccurs="0" nillable="true"/>
        </xs:sequence>
      </xs:complexType>
      <xs:element name="{name}" type="tns:{name}"/>
      <xs:element name="{name}Response" type="tns:{name}Response"/>
"#
        )
    });
    document.push_str("    </xs:schema>\n  </wsdl:types>\n");
    each(&mut document, |name| {
        format!(
            r#"  <wsdl:message name="{name}">
    <wsdl:part name="{name}" element="tns:{name}"/>
  </wsdl:message>
  <wsdl:message name="{name}Response">
    <wsdl:part name="{name}Response" element="tns:{name}Response"/>
  </wsdl:message>
"#
        )
    });
    document.push_str("  <wsdl:portType name=\"Application\">\n");
    each(&mut document, |name| {
        format!(
            r#"    <wsdl:operation name="{name}" parameterOrder="{name}">
      <wsdl:input name="{name}" message="tns:{name}"/>
      <wsdl:output name="{name}Response" message="tns:{name}Response"/>
    </wsdl:operation>
"#
        )
    });
    document.push_str(
        r#"  </wsdl:portType>
  <wsdl:binding name="Application" type="tns:Application">
    <soap:binding style="document" transport="http://schemas.xmlsoap.org/soap/http"/>
"#,
    );
    each(&mut document, |name| {
        format!(
            r#"    <wsdl:operation name="{name}">
      <soap:operation soapAction="{name}" style="document"/>
      <wsdl:input name="{name}">
        <soap:body use="literal"/>
      </wsdl:input>
      <wsdl:output name="{name}Response">
        <soap:body use="literal"/>
      </wsdl:output>
    </wsdl:operation>
"#
        )
    });
    // Writing to a string cannot fail.
    let _ = write!(
        document,
        r#"  </wsdl:binding>
  <wsdl:service name="DateTimeService">
    <wsdl:port name="Application" binding="tns:Application">
      <soap:address location="{}"/>
    </wsdl:port>
  </wsdl:service>
</wsdl:definitions>
"#,
        escape(address)
    );
    document
}

/// Appends a part of the document for each operation.
fn each(document: &mut String, part: impl Fn(&str) -> String) {
    for name in OPERATIONS {
        document.push_str(&part(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_cannot_break_out_of_the_document() {
        let document = wsdl("http://evil\"/><script>&/");
        assert!(document.contains("http://evil&quot;/&gt;&lt;script&gt;&amp;/"));
    }
}

//! The contract that the peers' SOAP client reads before it calls (docs/protocol.md 5).

use quick_xml::escape::escape;

/// The namespace of the operation and its messages.
pub(crate) const NAMESPACE: &str = "http://tests.python-zeep.org/";

const BEFORE_ADDRESS: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<wsdl:definitions xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/" xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:tns="http://tests.python-zeep.org/" targetNamespace="http://tests.python-zeep.org/" name="Application">
  <wsdl:types>
    <xs:schema targetNamespace="http://tests.python-zeep.org/" elementFormDefault="qualified">
      <xs:complexType name="datetime"/>
      <xs:complexType name="datetimeResponse">
        <xs:sequence>
          <xs:element name="datetimeResult" type="xs:string" minOccurs="0" nillable="true"/>
        </xs:sequence>
      </xs:complexType>
      <xs:element name="datetime" type="tns:datetime"/>
      <xs:element name="datetimeResponse" type="tns:datetimeResponse"/>
    </xs:schema>
  </wsdl:types>
  <wsdl:message name="datetime">
    <wsdl:part name="datetime" element="tns:datetime"/>
  </wsdl:message>
  <wsdl:message name="datetimeResponse">
    <wsdl:part name="datetimeResponse" element="tns:datetimeResponse"/>
  </wsdl:message>
  <wsdl:portType name="Application">
    <wsdl:operation name="datetime" parameterOrder="datetime">
      <wsdl:input name="datetime" message="tns:datetime"/>
      <wsdl:output name="datetimeResponse" message="tns:datetimeResponse"/>
    </wsdl:operation>
  </wsdl:portType>
  <wsdl:binding name="Application" type="tns:Application">
    <soap:binding style="document" transport="http://schemas.xmlsoap.org/soap/http"/>
    <wsdl:operation name="datetime">
      <soap:operation soapAction="datetime" style="document"/>
      <wsdl:input name="datetime">
        <soap:body use="literal"/>
      </wsdl:input>
      <wsdl:output name="datetimeResponse">
        <soap:body use="literal"/>
      </wsdl:output>
    </wsdl:operation>
  </wsdl:binding>
  <wsdl:service name="DateTimeService">
    <wsdl:port name="Application" binding="tns:Application">
      <soap:address location="http://"#;

const AFTER_ADDRESS: &str = r#"/"/>
    </wsdl:port>
  </wsdl:service>
</wsdl:definitions>
"#;

/// The WSDL of a service that is called at `http://HOST/`.
pub(crate) fn wsdl(host: &str) -> String {
    format!("{BEFORE_ADDRESS}{}{AFTER_ADDRESS}", escape(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_cannot_break_out_of_the_document() {
        let document = wsdl("evil\"/><script>&");
        assert!(document.contains("http://evil&quot;/&gt;&lt;script&gt;&amp;/"));
    }
}

//! The SOAP service over HTTP: its WSDL, its answers, and its faults for bad calls.

use std::net::SocketAddr;

use crate::process::{Index, Process, http, http_get, lonja};

const CALL: &str = "<?xml version='1.0'?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\">\
                    <s:Body><t:datetime xmlns:t=\"http://tests.python-zeep.org/\"/></s:Body></s:Envelope>";

fn post(address: SocketAddr, body: &str) -> (u16, String) {
    http(
        address,
        &format!(
            "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nSOAPAction: \"datetime\"\r\n\
             Content-Type: text/xml; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
}

#[test]
fn the_wsdl_names_the_address_that_was_asked() {
    let index = Index::start();
    for path in ["/?wsdl", "/?WSDL", "/?WsDl"] {
        let (status, wsdl) = http_get(index.datetime, path);
        assert_eq!(status, 200);
        assert!(wsdl.contains(&format!("location=\"http://{}/\"", index.datetime)), "{wsdl}");
    }
    let forged = "GET /?wsdl HTTP/1.1\r\nHost: index.example:8000\r\nConnection: close\r\n\r\n";
    assert!(http(index.datetime, forged).1.contains("location=\"http://index.example:8000/\""));
}

/// A proxy with TLS in front says at which address its callers ask, and nobody else may.
#[test]
fn the_wsdl_names_the_address_at_which_a_trusted_proxy_was_asked() {
    let asked = |datetime: SocketAddr| {
        let request = "GET /?wsdl HTTP/1.1\r\nHost: inside:8000\r\nConnection: close\r\n\
                       Forwarded: for=192.0.2.1;host=time.example;proto=https\r\n\r\n";
        let wsdl = http(datetime, request).1;
        wsdl.split("location=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    };
    for (trusted, address) in
        [("127.0.0.0/8", "https://time.example/"), ("10.0.0.0/8", "http://inside:8000/")]
    {
        let index = Index::start_with(&["--trusted-proxies", trusted]);
        assert_eq!(asked(index.datetime), address);
        let mut service = Process::spawn(lonja().args([
            "datetime",
            "--listen",
            "127.0.0.1:0",
            "--trusted-proxies",
            trusted,
        ]));
        assert_eq!(asked(service.address("lonja.datetime")), address);
    }
}

#[test]
fn the_time_is_told_at_several_addresses() {
    let several = ["--datetime-listen", "127.0.0.1:0", "--datetime-listen", "127.0.0.1:0"];
    let index = Index::start_with(&several);
    let lines = index.process.stdout();
    let addresses: Vec<SocketAddr> = lines
        .iter()
        .filter_map(|line| {
            line.strip_prefix("time over SOAP    http://")?.strip_suffix("/?wsdl")?.parse().ok()
        })
        .collect();
    assert_eq!(addresses.len(), 2, "{lines:?}");
    for address in addresses {
        assert_eq!(post(address, CALL).0, 200, "{address}");
        assert_eq!(http_get(address, "/datetime").0, 200, "{address}");
    }
}

#[test]
fn a_call_is_answered_and_anything_else_is_a_fault() {
    let index = Index::start();
    let (status, answer) = post(index.datetime, CALL);
    assert_eq!(status, 200);
    assert!(answer.contains("<tns:datetimeResult>"), "{answer}");
    let bomb = format!("<!DOCTYPE a [<!ENTITY b \"cccc\">]>{CALL}");
    let other = CALL.replace("t:datetime", "t:reboot");
    let large = CALL.replace("<s:Body>", &format!("<s:Header>{}</s:Header><s:Body>", " ".repeat(64 << 10)));
    for body in ["", "hello", "<a/>", &CALL[..100], &bomb, &other, &large] {
        let (status, answer) = post(index.datetime, body);
        assert_eq!(status, 500, "{answer}");
        assert!(answer.contains("<faultcode>soap:Client</faultcode>"), "{answer}");
        assert!(answer.contains("<faultstring>"), "{answer}");
    }
    assert_eq!(http_get(index.datetime, "/").0, 405);
    assert_eq!(http_get(index.datetime, "/?other").0, 405);
    assert_eq!(http_get(index.datetime, "/elsewhere?wsdl").0, 404);
}

/// Peers of other authors ask without SOAP.
#[test]
fn the_bare_time_is_text_or_json() {
    let index = Index::start();
    for path in ["/datetime", "/get_time"] {
        let (status, time) = http_get(index.datetime, path);
        assert_eq!((status, time.len()), (200, "12/05/2024 10:00:00".len()), "{time}");
        for asks in ["Host: 127.0.0.0:8000", "Host: index\r\nAccept: application/json"] {
            let request = format!("GET {path} HTTP/1.1\r\n{asks}\r\nConnection: close\r\n\r\n");
            let (status, json) = http(index.datetime, &request);
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!((status, json["datetime"].as_str().unwrap().len()), (200, 19), "{json}");
        }
    }
}

#[test]
fn the_time_is_that_of_the_time_zone() {
    let hour = |zone: &str| {
        let mut process =
            Process::spawn(lonja().args(["datetime", "--listen", "127.0.0.1:0"]).env("TZ", zone));
        let address = process.address("lonja.datetime listens on");
        let before = jiff::Timestamp::now().in_tz(zone).unwrap();
        let answer = post(address, CALL).1;
        let after = jiff::Timestamp::now().in_tz(zone).unwrap();
        let said = |time: jiff::Zoned| answer.contains(&time.strftime(">%d/%m/%Y %H:%M:").to_string());
        assert!(said(before) || said(after), "{zone}: {answer}");
    };
    for zone in ["UTC", "Asia/Tokyo", "America/St_Johns"] {
        hour(zone);
    }
}

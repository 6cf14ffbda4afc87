//! `lonja up` with its traces sent to a Jaeger in a container.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    eventually,
    jaeger::{Shape, each_request_is_one_trace},
    process::{Process, lonja},
    stack::{JAEGER, assert_engine, docker, output},
};

/// A Jaeger that is removed at the end.
struct Jaeger(String);

impl Jaeger {
    fn start() -> Self {
        let ports = ["-p", "127.0.0.1::4317", "-p", "127.0.0.1::16686"];
        let run = docker().args(["run", "-d", "--rm"]).args(ports).arg(JAEGER).output().unwrap();
        assert!(run.status.success(), "{JAEGER}: {}", String::from_utf8_lossy(&run.stderr));
        let jaeger = Self(String::from_utf8_lossy(&run.stdout).trim().to_owned());
        eventually("Jaeger answers", || {
            let mut stream = TcpStream::connect(jaeger.address("16686")).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
            stream.write_all(b"GET /api/services HTTP/1.0\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            answer.contains(" 200 ").then_some(())
        });
        jaeger
    }

    /// The address on this machine of a port of the container.
    fn address(&self, port: &str) -> SocketAddr {
        output(docker().args(["port", &self.0, port])).unwrap().parse().unwrap()
    }
}

impl Drop for Jaeger {
    fn drop(&mut self) {
        let _ = docker().args(["kill", &self.0]).output();
    }
}

#[test]
fn each_request_to_lonja_up_is_one_trace() {
    assert_engine();
    let jaeger = Jaeger::start();
    let data = TempDir::new().unwrap();
    let mut up = lonja();
    up.args(["up", "--data-dir"]).arg(data.path());
    for option in ["--gateway-listen", "--datetime-listen", "--console-listen"] {
        up.args([option, "127.0.0.1:0"]);
    }
    up.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", jaeger.address("4317")));
    let mut up = Process::spawn(&mut up);
    let peers = up.address("peers connect to");
    each_request_is_one_trace(peers, jaeger.address("16686"), Shape::Up);
}

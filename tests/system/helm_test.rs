//! The script that `helm test` runs in its pod, run against a real `lonja up`.

use std::{env, path::Path};

use tempfile::TempDir;

use crate::{
    process::{Index, lonja},
    repository,
};

#[test]
fn helm_test_passes_on_an_index_that_works_and_fails_on_one_that_does_not() {
    let index = Index::start();
    let program = lonja().get_program().to_owned();
    let path = format!(
        "{}:{}",
        Path::new(&program).parent().unwrap().display(),
        env::var("PATH").unwrap_or_default()
    );
    let files = TempDir::new().unwrap();
    let run = |port: u16| {
        std::process::Command::new("sh")
            .arg(repository("helm/lonja/files/test.sh"))
            .env("PATH", &path)
            .env("TMPDIR", files.path())
            .env("GATEWAY", "127.0.0.1")
            .env("PORT", port.to_string())
            .env("DATETIME", format!("http://{}/?wsdl", index.datetime))
            .output()
            .unwrap()
    };
    let passed = run(index.peers.port());
    let printed = String::from_utf8_lossy(&passed.stdout);
    assert!(passed.status.success(), "{printed}{}", String::from_utf8_lossy(&passed.stderr));
    assert_eq!(printed.lines().filter(|line| line.starts_with("ok: ")).count(), 21, "{printed}");

    let failed = run(1);
    assert!(!failed.status.success());
    assert!(String::from_utf8_lossy(&failed.stdout).contains("FAILED: unregister: expected"));
}

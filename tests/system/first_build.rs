//! What the first build of Lonja needs, and what a second one must not do again.

use std::process::Command;

/// Cargo takes a file that a build script watches and that is not there for a changed one, and
/// builds everything that depends on it anew. Without build scripts that cannot happen.
#[test]
fn nothing_of_lonja_is_built_by_a_script() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    for package in metadata["packages"].as_array().unwrap() {
        for target in package["targets"].as_array().unwrap() {
            assert_ne!(target["kind"][0], "custom-build", "{}", package["name"]);
        }
    }
}

//! A second build of Lonja must not build again what has not changed.

use std::process::Command;

/// When a build script watches a file that does not exist, Cargo counts the file as changed and
/// builds everything that depends on the script again. Without build scripts that cannot happen.
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

//! Compiles proto/lonja with protox, so that no protoc is needed.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 5] = [
    "lonja/registry/v1/registry.proto",
    "lonja/catalog/v1/catalog.proto",
    "lonja/audit/v1/audit.proto",
    "lonja/batch/v1/batch.proto",
    "lonja/console/v1/console.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=lonja");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".lonja.batch").compile_fds(descriptors)?;
    Ok(())
}

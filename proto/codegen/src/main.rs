//! Generates `proto/src/generated` from `proto/lonja`, with protox in the place of protoc.
//!
//! The generated code is committed, so that a build of Lonja need not compile a compiler of protos.
//! `make proto` runs this program, and its test compares what it generates with what is committed.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use prost::Message as _;
use tempfile::TempDir;

const PROTOS: [&str; 5] = [
    "lonja/registry/v1/registry.proto",
    "lonja/catalog/v1/catalog.proto",
    "lonja/audit/v1/audit.proto",
    "lonja/batch/v1/batch.proto",
    "lonja/console/v1/console.proto",
];

fn main() -> anyhow::Result<()> {
    let committed = committed();
    for name in read(&committed)?.into_keys() {
        fs::remove_file(committed.join(name))?;
    }
    for (name, content) in generate()? {
        fs::write(committed.join(name), content)?;
    }
    Ok(())
}

/// The folder of the protos.
fn protos() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder of the generated files that are committed.
fn committed() -> PathBuf {
    protos().join("src/generated")
}

/// Generates a Rust file for each package, and the descriptors that server reflection gives.
fn generate() -> anyhow::Result<BTreeMap<OsString, Vec<u8>>> {
    let descriptors = protox::compile(PROTOS, [protos()])?;
    let folder = TempDir::new()?;
    fs::write(folder.path().join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().out_dir(folder.path()).bytes(".lonja.batch").compile_fds(descriptors)?;
    Ok(read(folder.path())?)
}

/// The files of a folder by their names.
fn read(folder: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let read = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.file_name(), fs::read(entry.path())?))
    };
    fs::read_dir(folder)?.map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_code_is_what_the_protos_generate() {
        let (generated, committed) = (generate().unwrap(), read(&committed()).unwrap());
        let differs = |name: &&OsString| generated.get(*name) != committed.get(*name);
        let differing: Vec<_> = generated.keys().chain(committed.keys()).filter(differs).collect();
        assert!(differing.is_empty(), "{differing:?} are not what the protos generate: run `make proto`");
    }
}

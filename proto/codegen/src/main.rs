//! Generates the gRPC code from `proto/lonja`, with protox in the place of protoc.
//!
//! The generated code is committed, so that a build of Lonja need not compile a compiler of protos.
//! `make proto` runs this program, and its test compares what it generates with what is committed.

mod client;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use client::Generator;

const PROTOS: [&str; 6] = [
    "lonja/registry/v1/registry.proto",
    "lonja/catalog/v1/catalog.proto",
    "lonja/audit/v1/audit.proto",
    "lonja/batch/v1/batch.proto",
    "lonja/console/v1/console.proto",
    "lonja/admin/v1/admin.proto",
];

fn main() -> anyhow::Result<()> {
    // A proto with a mistake leaves what is committed as it is.
    let generated = generate()?;
    for path in committed()?.into_keys() {
        fs::remove_file(path)?;
    }
    for (path, content) in generated {
        fs::write(path, content)?;
    }
    Ok(())
}

/// The folder of the protos.
fn protos() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder of the generated code of the services.
fn services() -> PathBuf {
    protos().join("src/generated")
}

/// Where the generated code of batches is: beside what sends and answers batches.
fn batches() -> PathBuf {
    protos().join("../crates/rpc/src/batch/generated/lonja.batch.v1.rs")
}

/// Generates a Rust file for each package, and the descriptors that server reflection gives.
fn generate() -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut compiler = protox::Compiler::new([protos()])?;
    compiler.include_imports(true).include_source_info(true).open_files(PROTOS)?;
    let folder = TempDir::new()?;
    prost_build::Config::new()
        .out_dir(folder.path())
        .bytes([".lonja.batch"])
        .service_generator(Box::new(Generator::new(&compiler.descriptor_pool())))
        .compile_fds(compiler.file_descriptor_set())?;
    compiler.include_source_info(false);
    fs::write(folder.path().join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    Ok(read(folder.path())?.into_iter().map(|(path, content)| (place(&path), content)).collect())
}

/// Where a generated file is committed.
fn place(generated: &Path) -> PathBuf {
    match generated.file_name().and_then(OsStr::to_str) {
        Some("lonja.batch.v1.rs") => batches(),
        name => services().join(name.unwrap_or_default()),
    }
}

/// The generated files that are committed, by their paths.
fn committed() -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = read(&services())?;
    if batches().exists() {
        files.insert(batches(), fs::read(batches())?);
    }
    Ok(files)
}

/// The files of a folder by their paths.
fn read(folder: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let read = |entry: io::Result<fs::DirEntry>| {
        let path = entry?.path();
        let content = fs::read(&path)?;
        Ok((path, content))
    };
    fs::read_dir(folder)?.map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_code_is_what_the_protos_generate() {
        let (generated, committed) = (generate().unwrap(), committed().unwrap());
        let differs = |path: &&PathBuf| generated.get(*path) != committed.get(*path);
        let differing: Vec<_> = generated.keys().chain(committed.keys()).filter(differs).collect();
        assert!(differing.is_empty(), "{differing:?} are not what the protos generate: run `make proto`");
    }
}

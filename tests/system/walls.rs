//! The walls of the house (docs/architecture.md): which crate may know which, that no module imports
//! another in a circle, and that no crate grows into a bag.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use crate::repository;

/// The crates of Lonja that each crate may use in what is shipped, floor by floor.
const MAY_USE: [(&str, &[&str]); 21] = [
    ("lonja-wire", &[]),
    ("lonja-telemetry", &[]),
    ("lonja-journal", &["lonja-telemetry"]),
    ("lonja-redis", &["lonja-telemetry"]),
    ("lonja-rpc", &["lonja-telemetry"]),
    ("lonja-proto", &["lonja-rpc"]),
    ("lonja-chassis", &["lonja-journal", "lonja-proto", "lonja-redis", "lonja-rpc", "lonja-telemetry"]),
    (
        "lonja-audit",
        &["lonja-chassis", "lonja-journal", "lonja-proto", "lonja-redis", "lonja-rpc", "lonja-wire"],
    ),
    ("lonja-catalog", STATE),
    ("lonja-registry", STATE),
    ("lonja-datetime", &["lonja-chassis"]),
    ("lonja-console", &["lonja-chassis", "lonja-proto", "lonja-rpc"]),
    ("lonja-origin", &["lonja-chassis", "lonja-telemetry", "lonja-wire"]),
    ("lonja-presence", &["lonja-chassis", "lonja-proto", "lonja-telemetry", "lonja-wire"]),
    ("lonja-recorder", &["lonja-chassis", "lonja-proto", "lonja-telemetry"]),
    (
        "lonja-gateway",
        &[
            "lonja-chassis",
            "lonja-origin",
            "lonja-presence",
            "lonja-proto",
            "lonja-recorder",
            "lonja-rpc",
            "lonja-telemetry",
            "lonja-wire",
        ],
    ),
    ("lonja-peer", &["lonja-wire"]),
    (
        "lonja",
        &[
            "lonja-audit",
            "lonja-catalog",
            "lonja-chassis",
            "lonja-console",
            "lonja-datetime",
            "lonja-gateway",
            "lonja-journal",
            "lonja-peer",
            "lonja-proto",
            "lonja-redis",
            "lonja-registry",
            "lonja-rpc",
            "lonja-telemetry",
            "lonja-wire",
        ],
    ),
    ("lonja-testing", &["lonja-wire"]),
    ("lonja-simulation", &[]),
    ("lonja-codegen", &[]),
];
const STATE: &[&str] = &["lonja-chassis", "lonja-journal", "lonja-proto", "lonja-redis", "lonja-rpc"];

/// Crates of others that a crate must not use, because of what it never does.
const NEVER_USES: [(&str, &[&str]); 4] = [
    // The protocol does no I/O and does not wait.
    ("lonja-wire", &["tokio", "tonic", "rustix", "metrics", "tracing"]),
    ("lonja-telemetry", &["tonic", "prost", "axum"]),
    ("lonja-journal", &["tonic", "axum", "redis"]),
    ("lonja-redis", &["tonic", "axum", "redb"]),
];

/// The most lines that a crate may have. The peer is a program of its own.
const MOST: usize = 2500;

/// A crate of the workspace: what it uses in what is shipped, and its folder.
struct Package {
    uses: BTreeSet<String>,
    folder: String,
}

fn packages() -> BTreeMap<String, Package> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--format-version", "1", "--locked"]).current_dir(repository("."));
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let package = |package: &serde_json::Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let shipped = dependencies.filter(|dependency| dependency["kind"].is_null());
        let folder = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap();
        let uses = shipped.map(|dependency| text(&dependency["name"])).collect();
        (text(&package["name"]), Package { uses, folder: folder.to_str().unwrap().to_owned() })
    };
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

#[test]
fn each_crate_uses_what_its_floor_may_use() {
    let packages = packages();
    for (name, may_use) in MAY_USE {
        let uses = packages[name].uses.iter().filter(|used| used.starts_with("lonja"));
        let uses: Vec<_> = uses.map(String::as_str).collect();
        let more: Vec<_> = uses.iter().filter(|used| !may_use.contains(used)).collect();
        assert!(more.is_empty(), "{name} uses {more:?}: docs/architecture.md says what it may use");
        let less: Vec<_> = may_use.iter().filter(|used| !uses.contains(used)).collect();
        assert!(less.is_empty(), "{name} does not use {less:?} any more: take them out of this table");
    }
    for (name, never) in NEVER_USES {
        let used: Vec<_> = never.iter().filter(|never| packages[name].uses.contains(**never)).collect();
        assert!(used.is_empty(), "{name} uses {used:?}");
    }
    let known: BTreeSet<_> = MAY_USE.iter().map(|(name, _)| (*name).to_owned()).collect();
    let tools = ["lonja-bench", "lonja-fuzz", "lonja-load", "lonja-packaging"].map(str::to_owned);
    let new: Vec<_> =
        packages.keys().filter(|name| !known.contains(*name) && !tools.contains(name)).collect();
    assert!(new.is_empty(), "{new:?} have no place in this table");
}

#[test]
fn no_crate_is_a_bag() {
    for (name, package) in packages() {
        if name == "lonja-peer" {
            continue;
        }
        let lines: usize = sources(&package.folder).values().map(|text| text.lines().count()).sum();
        assert!(lines <= MOST, "{name} has {lines} lines");
    }
}

/// The source files of a crate by the name of their module, such as `store::redis`; generated files,
/// modules of tests and the tests in a file are left out.
fn sources(folder: &str) -> BTreeMap<String, String> {
    fn collect(folder: &Path, module: &str, found: &mut BTreeMap<String, String>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            if ["generated", "tests", "worlds"].contains(&stem) {
                continue;
            }
            let name = if module.is_empty() { stem.to_owned() } else { format!("{module}::{stem}") };
            if path.is_dir() {
                collect(&path, &name, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
                found.insert(name, text[..end].to_owned());
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(&Path::new(folder).join("src"), "", &mut found);
    found
}

/// The modules that each module of a crate imports, by name or in braces behind `crate::`. Only the
/// first part of a path counts: circles within a folder are seen by its own modules.
fn imports(sources: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let first = |name: &str| name.split("::").next().unwrap().to_owned();
    let modules: BTreeSet<_> = sources.keys().map(|name| first(name)).collect();
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, text) in sources {
        let from = first(name);
        if matches!(from.as_str(), "lib" | "main" | "tests") || name.ends_with("contract") {
            continue;
        }
        let used = imports.entry(from.clone()).or_default();
        for behind in text.split("crate::").skip(1) {
            let mut depth = 0;
            let mut word = String::new();
            let mut heads = Vec::new();
            let mut is_head = true;
            for character in behind.chars() {
                match character {
                    'a'..='z' | '_' | '0'..='9' | 'A'..='Z' => word.push(character),
                    '{' => {
                        depth += 1;
                        (word, is_head) = (String::new(), depth == 1);
                    }
                    ':' | ',' | '}' | ';' | '(' | ' ' | '\n' | ')' | '<' | '>' | '&' | '.' => {
                        if is_head && !word.is_empty() {
                            heads.push(std::mem::take(&mut word));
                        }
                        is_head =
                            character == ',' && depth == 1 || is_head && matches!(character, ' ' | '\n');
                        word.clear();
                        depth -= i32::from(character == '}');
                        if depth <= 0 && character != ':' {
                            break;
                        }
                    }
                    _ => break,
                }
            }
            used.extend(heads.into_iter().filter(|head| modules.contains(head) && *head != from));
        }
    }
    imports
}

#[test]
fn no_module_imports_another_in_a_circle() {
    for (name, package) in packages() {
        let imports = imports(&sources(&package.folder));
        let mut left = imports.clone();
        // Takes away what imports nothing that is left, until nothing is left.
        loop {
            let leaves: Vec<_> =
                left.iter().filter(|(_, uses)| uses.iter().all(|used| !left.contains_key(used))).collect();
            let leaves: Vec<String> = leaves.into_iter().map(|(name, _)| name.clone()).collect();
            if leaves.is_empty() {
                break;
            }
            leaves.iter().for_each(|leaf| drop(left.remove(leaf)));
        }
        let circle: BTreeMap<_, Vec<_>> = left
            .iter()
            .map(|(module, uses)| (module, uses.iter().filter(|used| left.contains_key(*used)).collect()))
            .collect();
        assert!(circle.is_empty(), "{name}: {circle:?}");
    }
}

/// The reader of imports sees what it has to see.
#[test]
fn imports_are_read_from_braces_and_paths() {
    let sources = [
        ("a", "use crate::{\n    b::{self, C},\n    d,\n};\nfn f() { crate::e::g() }"),
        ("b", "use crate::a::X;"),
        ("d", "// nothing"),
        ("e", "use crate::X;"),
    ];
    let sources = sources.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
    let read = imports(&sources);
    assert_eq!(read["a"], ["b", "d", "e"].map(str::to_owned).into());
    assert_eq!(read["b"], ["a".to_owned()].into());
    assert!(read["d"].is_empty() && read["e"].is_empty());
}

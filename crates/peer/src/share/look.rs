//! What is below the directory, and what of it cannot be published.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::{Path, PathBuf},
};

use cap_std::fs::{Dir, DirEntry};
use lonja_wire::Filename;

use crate::{data_dir::DataDir, names::composed, partial::is_part, text::visible};

/// What was found below the directory.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The files, by the names that they are published under.
    pub(super) files: BTreeMap<String, Filename>,
    /// The composed paths of folders that could not be read: what was below them may be there
    /// still.
    unseen: Vec<PathBuf>,
}

impl Seen {
    /// Whether a published file is there no more.
    pub(super) fn is_gone(&self, name: &str) -> bool {
        !self.files.contains_key(name) && !self.unseen.iter().any(|below| Path::new(name).starts_with(below))
    }
}

/// Looks at the directory, and says once of each file that cannot be published why not.
#[derive(Debug, Default)]
pub(super) struct Looker {
    /// The names of which standard error has said that they are not published.
    left_out: HashSet<String>,
}

impl Looker {
    /// Looks for files below the directory.
    pub(super) fn look(&mut self, directory: &Dir) -> Seen {
        let mut seen = Seen::default();
        let mut directories = vec![PathBuf::new()];
        while let Some(below) = directories.pop() {
            let path = if below.as_os_str().is_empty() { Path::new(".") } else { &below };
            let entries = match directory.read_dir(path) {
                Ok(entries) => entries,
                // The folder may be gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.leave_out(&path.to_string_lossy(), &error.to_string());
                    seen.unseen.push(composed_path(&below));
                    continue;
                }
            };
            for entry in entries {
                let Ok(entry) = entry else {
                    seen.unseen.push(composed_path(&below));
                    continue;
                };
                let path = below.join(entry.file_name());
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => directories.push(path),
                    Ok(kind) if kind.is_file() => self.add(path, &entry, &mut seen.files),
                    // A link counts if it leads to a file below the directory.
                    Ok(kind)
                        if kind.is_symlink() && directory.metadata(&path).is_ok_and(|to| to.is_file()) =>
                    {
                        self.add(path, &entry, &mut seen.files);
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(_) => seen.unseen.push(composed_path(&path)),
                }
            }
        }
        seen
    }

    fn add(&mut self, path: PathBuf, entry: &DirEntry, files: &mut BTreeMap<String, Filename>) {
        let own = entry.file_name();
        if own.to_str().is_some_and(|name| DataDir::is_own(name) || is_part(name)) {
            return;
        }
        let Some(name) = path.to_str() else {
            return self.leave_out(&path.to_string_lossy(), "its name is not UTF-8");
        };
        let published = composed(name);
        match published.parse() {
            Ok(_) if files.contains_key(&published) => {
                self.leave_out(name, "another file has an equal name, with accents encoded differently");
            }
            Ok(filename) => {
                files.insert(published, filename);
            }
            Err(error) => self.leave_out(name, &format!("its name is {error}")),
        }
    }

    /// Says that a file is not published, and why, if that has not been said.
    pub(super) fn leave_out(&mut self, name: &str, why: &str) {
        if self.left_out.insert(name.to_owned()) {
            complain!("lonja: {} is not published: {why}", visible(name));
        }
    }

    /// Notes that a file is published after all.
    pub(super) fn note_published(&mut self, name: &str) {
        self.left_out.remove(name);
    }
}

/// A path with its parts composed, as the names of published files are.
fn composed_path(path: &Path) -> PathBuf {
    path.to_str().map_or_else(|| path.to_owned(), |path| composed(path).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_could_look_at_is_not_gone() {
        let files = [("a".to_owned(), "a".parse().unwrap())].into();
        let mut seen = Seen { files, unseen: vec!["sub".into()] };
        assert!(!seen.is_gone("a") && !seen.is_gone("sub/b") && !seen.is_gone("sub"));
        assert!(seen.is_gone("b") && seen.is_gone("subway"));
        // The directory itself could not be read.
        seen.unseen.push(PathBuf::new());
        assert!(!seen.is_gone("b"));
    }
}

//! Writes what the packages hold beside the binary: man pages and shell completions, made from the
//! command line as the binary defines it. `make dist` runs this program.

use std::{fs, path::PathBuf};

use clap::Parser;
use clap_complete::{
    Shell::{Bash, Fish, Zsh},
    generate_to,
};

/// For each shell: the folder below `share` where the shell looks for completions, the name of the
/// file that is generated, and the name that the shell looks for.
const COMPLETIONS: [(clap_complete::Shell, &str, &str, &str); 3] = [
    (Bash, "bash-completion/completions", "lonja.bash", "lonja"),
    (Fish, "fish/vendor_completions.d", "lonja.fish", "lonja.fish"),
    (Zsh, "zsh/vendor-completions", "_lonja", "_lonja"),
];

#[derive(Debug, Parser)]
struct Arguments {
    /// Folder to write to; all files go below share/ in this folder
    folder: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let share = Arguments::parse().folder.join("share");
    let manual = share.join("man/man1");
    fs::create_dir_all(&manual)?;
    clap_mangen::generate_to(lonja::command(), &manual)?;
    for (shell, folder, made, wanted) in COMPLETIONS {
        let folder = share.join(folder);
        fs::create_dir_all(&folder)?;
        generate_to(shell, &mut lonja::command(), "lonja", &folder)?;
        fs::rename(folder.join(made), folder.join(wanted))?;
    }
    Ok(())
}

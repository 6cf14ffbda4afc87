//! The Debian package in a container of Debian: installed, started by its unit's command line,
//! removed and purged. `make test-containers` makes the package first.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{
    eventually, repository,
    stack::{docker, output},
};

/// Sends SIGTERM to lonja, in a container without `pkill`.
const STOP: &str = r#"kill $(awk '$2 == "(lonja)" {print $1}' /proc/[0-9]*/stat)"#;

/// A container of Debian that is removed at the end.
struct Container(String);

impl Container {
    fn start() -> Self {
        let packages = repository("target/packages");
        let volume = format!("{}:/packages:ro", packages.display());
        let run = ["run", "-d", "--rm", "-v", &volume, "debian:bookworm-slim", "sleep", "600"];
        Self(output(docker().args(run)).expect("a container of debian:bookworm-slim"))
    }

    /// Runs a script in the container as root and gives what it printed; `None` if it failed.
    fn try_run(&self, script: &str) -> Option<String> {
        output(docker().args(["exec", &self.0, "sh", "-euc", script]))
    }

    fn run(&self, script: &str) -> String {
        self.try_run(script).unwrap_or_else(|| panic!("in the container, this failed: {script}"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = docker().args(["kill", &self.0]).stdout(Stdio::null()).status();
    }
}

fn package(suffix: &str) -> PathBuf {
    let entries = fs::read_dir(repository("target/packages")).into_iter().flatten().flatten();
    let mut found = entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with(suffix));
    found.next().unwrap_or_else(|| panic!("no package *{suffix} in target/packages: run make dist"))
}

/// The command line of the unit, with systemd's variable replaced.
fn unit_command() -> String {
    let unit = fs::read_to_string(repository("packaging/lonja.service")).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("ExecStart");
    line.replace("${STATE_DIRECTORY}", "/var/lib/lonja")
}

#[test]
fn the_debian_package_is_installed_runs_and_leaves_the_state_until_it_is_purged() {
    let name = package(".deb").file_name().unwrap().to_string_lossy().into_owned();
    let container = Container::start();
    container.run(&format!("apt-get install -y -qq /packages/{name} >/dev/null 2>&1"));
    for file in [
        "/usr/bin/lonja",
        "/usr/lib/systemd/system/lonja.service",
        "/etc/default/lonja",
        "/usr/share/man/man1/lonja-up.1.gz",
        "/usr/share/bash-completion/completions/lonja",
        "/usr/share/zsh/vendor-completions/_lonja",
        "/usr/share/fish/vendor_completions.d/lonja.fish",
    ] {
        container.run(&format!("test -s {file}"));
    }
    container.run("test $(stat -c %a /etc/default/lonja) = 640");
    // As systemd would: another user, a folder of its own, the settings of a file that only root reads.
    let start = format!(
        "useradd --system lonja-test; install -d -m 0700 -o lonja-test /var/lib/lonja; \
         set -a; . /etc/default/lonja; su -p -s /bin/sh lonja-test -c 'exec {} >/tmp/out 2>&1 &'",
        unit_command()
    );
    container.run(&start);
    let ready = "lonja health http://127.0.0.1:8080/readyz";
    eventually("the package's lonja is ready", || container.try_run(ready));
    assert_eq!(container.run("cd /tmp && lonja peer register alice"), "REGISTER OK");
    container.run(STOP);
    eventually("lonja has ended", || container.try_run("test ! -e /var/lib/lonja/lonja.wal0"));

    container.run("apt-get remove -y -qq lonja >/dev/null 2>&1");
    container
        .run("test ! -e /usr/bin/lonja && test -s /var/lib/lonja/lonja.redb && test -s /etc/default/lonja");
    // Installed again, the package finds the state.
    container.run(&format!("apt-get install -y -qq /packages/{name} >/dev/null 2>&1"));
    container.run(&start.replace("useradd --system lonja-test; ", ""));
    eventually("lonja is ready again", || container.try_run(ready));
    let again = container.try_run("cd /tmp && lonja peer register alice");
    assert_eq!(again, None, "alice was registered before");
    container.run(STOP);
    container.run("apt-get purge -y -qq lonja >/dev/null 2>&1");
    container.run("test ! -e /var/lib/lonja && test ! -e /etc/default/lonja");
}

#[test]
fn the_tarball_has_a_binary_that_runs() {
    let name = package(".tar.gz").file_name().unwrap().to_string_lossy().into_owned();
    let container = Container::start();
    container.run(&format!("mkdir /unpacked && tar -xzf /packages/{name} -C /unpacked --strip-components 1"));
    assert!(container.run("/unpacked/bin/lonja --version").starts_with("lonja "));
    container.run("test -s /unpacked/README.md && test -s /unpacked/lib/systemd/system/lonja.service");
}

/// Of the unit's exposure, systemd says "OK" or better.
#[test]
fn the_unit_is_hardened() {
    let unit = repository("packaging/lonja.service");
    let analyzed = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(&unit)
        .output();
    let analyzed = analyzed.expect("systemd-analyze: apt-get install systemd");
    let said = String::from_utf8_lossy(&analyzed.stdout);
    let overall = said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_default();
    println!("{overall}");
    let level: f64 = overall.split_whitespace().find_map(|word| word.parse().ok()).expect("a level");
    assert!(level < 3.0, "{said}");
}

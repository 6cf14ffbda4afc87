//! Calls of `kubectl` and `helm`, as a person makes them.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread,
};

use crate::eventually;

/// What a command printed.
pub(crate) struct Printed {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end.
pub(crate) fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Printed {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} cannot be run, tests/kubernetes/README.md: {error}"));
    if let Some(input) = input {
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    Printed {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    }
}

/// A namespace of the test's own, which takes only restricted pods. It is removed at the end.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    /// Creates the namespace, after the context is known to be the one that the caller means.
    pub(crate) fn create(prefix: &str) -> Self {
        let context = run("kubectl", &["config", "current-context"], None).stdout;
        let meant = env::var("LONJA_TEST_CONTEXT").unwrap_or_default();
        assert!(!context.is_empty() && context == meant, "run this by `make test-kubernetes`");
        let name = format!("{prefix}-{}", std::process::id());
        let created = run("kubectl", &["create", "namespace", &name], None);
        assert!(created.success, "{}", created.stderr);
        let namespace = Self { name };
        let restricted = "pod-security.kubernetes.io/enforce=restricted";
        let labelled = run("kubectl", &["label", "namespace", &namespace.name, restricted], None);
        assert!(labelled.success, "{}", labelled.stderr);
        namespace
    }

    /// Runs `kubectl` in the namespace, and gives what it printed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        let printed = self.try_kubectl(arguments);
        assert!(printed.success, "kubectl {arguments:?}: {}", printed.stderr);
        printed.stdout
    }

    /// Runs `kubectl` in the namespace, which may fail.
    pub(crate) fn try_kubectl(&self, arguments: &[&str]) -> Printed {
        run("kubectl", &[&["-n", &self.name], arguments].concat(), None)
    }

    /// Creates or changes the objects of a manifest.
    pub(crate) fn apply(&self, manifest: &str) {
        let printed = run("kubectl", &["-n", &self.name, "apply", "-f", "-"], Some(manifest));
        assert!(printed.success, "{}", printed.stderr);
    }

    /// Runs `helm` in the namespace.
    pub(crate) fn helm(&self, arguments: &[&str]) -> Printed {
        run("helm", &[&["-n", &self.name], arguments].concat(), None)
    }

    /// Opens a way from this machine to a port of an object, such as `service/lonja-gateway`.
    pub(crate) fn forward(&self, object: &str, port: u16) -> Forward {
        let mut child = Command::new("kubectl")
            .args(["-n", &self.name, "port-forward", object, &format!(":{port}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().and_then(Result::ok);
        // Forwarding from 127.0.0.1:41235 -> 5050
        let address = first.as_ref().and_then(|line| line.split_whitespace().nth(2)?.parse().ok());
        // kubectl stops when nobody reads what it prints.
        thread::spawn(move || lines.for_each(drop));
        let Some(address) = address else {
            let _ = child.kill();
            panic!("port-forward of {object} printed {first:?}");
        };
        Forward { child, address }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.try_kubectl(&["get", "pods,pvc,services", "-o", "wide"]).stdout);
            eprintln!("{}", self.try_kubectl(&["get", "events", "--sort-by=.lastTimestamp"]).stdout);
            let logs = [
                "logs",
                "-l",
                "app.kubernetes.io/name=lonja,app.kubernetes.io/component!=jaeger",
                "--prefix",
                "--tail=15",
            ];
            eprintln!("{}", self.try_kubectl(&logs).stdout);
        }
        let delete = ["delete", "namespace", &self.name, "--wait=true", "--timeout=120s"];
        let deleted = run("kubectl", &delete, None);
        if !deleted.success {
            eprintln!("the namespace {} is left: {}", self.name, deleted.stderr);
        }
    }
}

/// A port of this machine that leads to a port in the cluster, until this value is dropped.
pub(crate) struct Forward {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Forward {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The names of the pods with this label that are not being removed.
pub(crate) fn pods(namespace: &Namespace, label: &str) -> Vec<String> {
    let format = "jsonpath={range .items[*]}{.metadata.name} {.metadata.deletionTimestamp}{\"\\n\"}{end}";
    let listed = namespace.kubectl(&["get", "pods", "-l", label, "-o", format]);
    // The line of a pod that is being removed has a second word.
    let staying = listed.lines().map(str::trim_end).filter(|line| !line.contains(' '));
    staying.map(str::to_owned).collect()
}

/// Waits until no pod of the namespace is being removed.
pub(crate) fn until_settled(namespace: &Namespace) {
    eventually("no pod is being removed", || {
        let format = "jsonpath={range .items[*]}{.metadata.deletionTimestamp}{end}";
        namespace.kubectl(&["get", "pods", "-o", format]).is_empty().then_some(())
    });
}

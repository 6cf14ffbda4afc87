//! The stack of docker-compose.yml, started from nothing and removed at the end.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use crate::{eventually, repository};

/// The number of replicas of each service that may have several.
pub(crate) const REPLICAS: usize = 2;
/// The image of Jaeger, as docker-compose.yml names it.
pub(crate) const JAEGER: &str = "jaegertracing/jaeger:2.21.0";

pub(crate) struct Stack {
    project: String,
    files: Vec<&'static str>,
    environment: Vec<(String, String)>,
    /// The address of each gateway for peers.
    pub(crate) peers: Vec<SocketAddr>,
    pub(crate) datetime: SocketAddr,
    pub(crate) jaeger: SocketAddr,
    pub(crate) audit: SocketAddr,
    pub(crate) console: SocketAddr,
}

/// Runs a command to its end and gives its standard output; `None` if the command failed.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(crate) fn docker() -> Command {
    // On some machines the first `docker` on the path has no engine.
    let system = Path::new("/usr/bin/docker");
    Command::new(if system.exists() { system } else { "docker".as_ref() })
}

/// Panics where no container engine answers, and says what to do.
pub(crate) fn assert_engine() {
    let engine = docker().arg("info").stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(
        engine.is_ok_and(|status| status.success()),
        "no container engine answers: install Docker (https://docs.docker.com/engine/install/) and start it"
    );
}

fn compose_program() -> Vec<String> {
    let plugin = docker().args(["compose", "version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if plugin.is_ok_and(|status| status.success()) {
        return vec![docker().get_program().to_string_lossy().into_owned(), "compose".to_owned()];
    }
    let alone = Command::new("docker-compose").arg("version").stdout(Stdio::null()).status();
    assert!(
        alone.is_ok_and(|status| status.success()),
        "no Docker Compose: install the plugin docker-compose-plugin or the command docker-compose"
    );
    vec!["docker-compose".to_owned()]
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// Finds `REPLICAS` free ports in a row, as a published range must be, and gives the first.
fn free_range(from: u16) -> u16 {
    (from..from + 1000)
        .step_by(REPLICAS)
        .find(|first| (0..REPLICAS as u16).all(|next| TcpListener::bind(("0.0.0.0", first + next)).is_ok()))
        .expect("free ports")
}

impl Stack {
    /// Builds the image, starts the stack, and waits until everything is healthy.
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts the stack as `start` does, with an overlay file and a variable that this file reads.
    pub(crate) fn start_with(overlay: Option<(&'static str, (&str, String))>) -> Self {
        assert_engine();
        let ports = free_ports(3);
        let (first, first_audit) = (free_range(20_000), free_range(21_000));
        let range = |first: u16| format!("{first}-{}", usize::from(first) + REPLICAS - 1);
        let mut files = vec!["docker-compose.yml", "tests/containers/compose.yaml"];
        let set = |name: &str, value: String| (name.to_owned(), value);
        let mut environment = vec![
            set("LONJA_GATEWAY_PORT", range(first)),
            set("LONJA_DATETIME_PORT", ports[0].to_string()),
            set("LONJA_JAEGER_PORT", ports[1].to_string()),
            set("LONJA_CONSOLE_PORT", ports[2].to_string()),
            set("LONJA_TEST_AUDIT_PORT", range(first_audit)),
            // Compose 1.29 uses the old builder unless told otherwise.
            set("DOCKER_BUILDKIT", "1".to_owned()),
            set("COMPOSE_DOCKER_CLI_BUILD", "1".to_owned()),
        ];
        if let Some((file, (name, value))) = overlay {
            files.push(file);
            environment.push(set(name, value));
        }
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let stack = Self {
            project: format!("lonjatest{}", std::process::id()),
            files,
            environment,
            peers: (0..REPLICAS as u16).map(|next| local(first + next)).collect(),
            datetime: local(ports[0]),
            jaeger: local(ports[1]),
            audit: local(first_audit),
            console: local(ports[2]),
        };
        stack.compose(&["build", "gateway"]);
        let started = Instant::now();
        let mut arguments: Vec<String> = ["up", "-d"].map(str::to_owned).to_vec();
        for service in ["gateway", "registry", "catalog", "audit"] {
            arguments.extend(["--scale".to_owned(), format!("{service}={REPLICAS}")]);
        }
        stack.compose(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        eventually("everything is healthy", || stack.is_healthy().then_some(()));
        println!("from nothing to healthy in {:.1} s", started.elapsed().as_secs_f64());
        stack
    }

    pub(crate) fn compose(&self, arguments: &[&str]) -> String {
        let program = compose_program();
        let mut command = Command::new(&program[0]);
        command.args(&program[1..]).current_dir(repository("")).envs(self.environment.clone());
        command.args(["-p", &self.project]);
        // Compose builds with the first `docker` on the path, which must have an engine.
        if let Some(directory) = Path::new(docker().get_program()).parent().filter(|path| path.is_absolute())
        {
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", directory.display()));
        }
        for file in &self.files {
            command.args(["-f", file]);
        }
        output(command.args(arguments)).unwrap_or_else(|| panic!("compose {arguments:?} failed"))
    }

    /// The ids of the containers of a service.
    pub(crate) fn containers(&self, service: &str) -> Vec<String> {
        self.compose(&["ps", "-q", service]).lines().map(str::to_owned).collect()
    }

    /// Whether all containers run, and all that have a health check are healthy.
    pub(crate) fn is_healthy(&self) -> bool {
        let ids = self.compose(&["ps", "-q"]);
        let format = "{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{else}}healthy{{end}}";
        let states = output(docker().args(["inspect", "--format", format]).args(ids.lines()));
        states.is_some_and(|states| states.lines().all(|state| state == "running healthy"))
    }

    /// Kills a container's process, as a crash would.
    pub(crate) fn crash(&self, container: &str) {
        let id = output(docker().args(["inspect", "--format", "{{.State.Pid}}", container])).unwrap();
        assert!(Command::new("kill").args(["-9", &id]).status().unwrap().success());
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.compose(&["logs", "--no-color", "--tail", "40"]));
            eprintln!("{}", self.compose(&["ps"]));
        }
        self.compose(&["down", "--volumes", "--remove-orphans"]);
    }
}

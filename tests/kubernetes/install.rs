//! The release: installed, upgraded, rolled back and uninstalled by `helm`.

use std::{env, fs, net::SocketAddr, path::PathBuf};

use tempfile::TempDir;

use crate::{
    eventually,
    kubectl::{Forward, Namespace, run, until_settled},
    repository,
};

/// The name of the release, and so the prefix of the names of its objects.
pub(crate) const RELEASE: &str = "lonja";
/// The name of a Redis outside the release.
const OUTSIDE: &str = "outside";

/// The release of the chart that a test follows.
pub(crate) struct Release<'a> {
    pub(crate) namespace: &'a Namespace,
    values: Vec<String>,
    /// Where the Redis is, if the release has none of its own.
    outside: Option<Namespace>,
    chart: PathBuf,
    copies: TempDir,
    /// How long `helm` waits until everything is ready.
    timeout: String,
}

impl<'a> Release<'a> {
    /// A release that is not installed yet, of the chart and with the values that the environment
    /// names: `LONJA_TEST_CHART`, `LONJA_TEST_IMAGE`, `LONJA_TEST_VARIANT`, `LONJA_TEST_TIMEOUT`.
    pub(crate) fn new(namespace: &'a Namespace) -> Self {
        let image = env::var("LONJA_TEST_IMAGE").unwrap_or_else(|_| "lonja:local".to_owned());
        let (repository_name, tag) = image.rsplit_once(':').expect("LONJA_TEST_IMAGE is NAME:TAG");
        let mut values = vec![
            format!("image.repository={repository_name}"),
            format!("image.tag={tag}"),
            "jaeger.enabled=true".to_owned(),
            "tracing.ratio=1".to_owned(),
            // All load comes from one address.
            "gateway.maxRegistrationsPerAddress=0".to_owned(),
            "gateway.maxRequestsPerAddress=0".to_owned(),
        ];
        let chart = env::var_os("LONJA_TEST_CHART").map_or_else(|| repository("helm/lonja"), PathBuf::from);
        let mut outside = None;
        match env::var("LONJA_TEST_VARIANT").as_deref() {
            Err(_) | Ok("") => {}
            Ok("no-policies") => values.push("networkPolicy.enabled=false".to_owned()),
            Ok("external-redis") => outside = Some(redis_outside(namespace, &chart, &mut values)),
            Ok(other) => panic!("LONJA_TEST_VARIANT={other}: it is no-policies, external-redis or empty"),
        }
        let timeout = env::var("LONJA_TEST_TIMEOUT").unwrap_or_else(|_| "3m".to_owned());
        Self { namespace, values, outside, chart, copies: TempDir::new().unwrap(), timeout }
    }

    fn helm(&self, arguments: &[&str]) -> String {
        let printed = self.namespace.helm(arguments);
        assert!(printed.success, "helm {arguments:?}: {}\n{}", printed.stderr, printed.stdout);
        assert!(!printed.stderr.to_lowercase().contains("warning"), "helm {arguments:?}: {}", printed.stderr);
        printed.stdout
    }

    /// Installs the chart, and waits until everything is ready.
    pub(crate) fn install(&self) {
        let values: Vec<_> = self.values.iter().flat_map(|value| ["--set", value]).collect();
        let chart = self.chart.display().to_string();
        let install = ["install", RELEASE, &chart, "--wait", "--timeout", &self.timeout];
        self.helm(&[&install[..], &values].concat());
    }

    /// Runs the pod of `helm test`, and asserts that the pod succeeds.
    pub(crate) fn test(&self) {
        let printed = self.helm(&["test", RELEASE, "--timeout", "2m"]);
        assert!(printed.contains("Succeeded"), "{printed}");
    }

    /// Upgrades to the chart in `chart` with one more value, and waits until everything is ready.
    pub(crate) fn upgrade(&mut self, chart: Option<PathBuf>, value: Option<&str>) {
        if let Some(chart) = chart {
            self.chart = chart;
        }
        self.values.extend(value.map(str::to_owned));
        let values: Vec<_> = self.values.iter().flat_map(|value| ["--set", value]).collect();
        let chart = self.chart.display().to_string();
        let upgrade = ["upgrade", RELEASE, &chart, "--wait", "--timeout", &self.timeout];
        self.helm(&[&upgrade[..], &values].concat());
    }

    /// Rolls back to the revision of the install, and waits until everything is ready.
    pub(crate) fn roll_back(&self) {
        self.helm(&["rollback", RELEASE, "1", "--wait", "--timeout", &self.timeout]);
    }

    /// Uninstalls the release, and asserts that only the claim of the volume is left.
    pub(crate) fn uninstall(&self) {
        self.helm(&["uninstall", RELEASE, "--wait", "--timeout", "2m"]);
        until_settled(self.namespace);
        let kinds = "all,configmaps,secrets,serviceaccounts,persistentvolumeclaims,networkpolicies,\
                     poddisruptionbudgets,horizontalpodautoscalers,endpointslices";
        let of_the_namespace =
            ["configmap/kube-root-ca.crt", "serviceaccount/default", "secret/outside-redis"];
        let expected: &[&str] = match self.outside {
            None => &["persistentvolumeclaim/data-lonja-redis-0"],
            Some(_) => &[],
        };
        eventually("the release is gone", || {
            let left = self.namespace.kubectl(&["get", kinds, "-o", "name"]);
            let left: Vec<_> = left.lines().filter(|name| !of_the_namespace.contains(name)).collect();
            (left == expected).then_some(())
        });
    }

    /// A copy of the chart, in which `file` is changed.
    pub(crate) fn changed_chart(&self, name: &str, file: &str, from: &str, to: &str) -> PathBuf {
        let copy = self.copies.path().join(name);
        let copied = run("cp", &["-r", &self.chart.display().to_string(), &copy.display().to_string()], None);
        assert!(copied.success, "{}", copied.stderr);
        let text = fs::read_to_string(copy.join(file)).unwrap();
        assert!(text.contains(from), "{file} has {from}");
        fs::write(copy.join(file), text.replacen(from, to, 1)).unwrap();
        copy
    }

    /// The namespace that has the Redis.
    pub(crate) fn of_redis(&self) -> &Namespace {
        self.outside.as_ref().unwrap_or(self.namespace)
    }

    /// The address of the gateway for peers, on a node.
    pub(crate) fn node_port(&self) -> SocketAddr {
        let node = env::var("LONJA_TEST_NODE").unwrap_or_else(|_| {
            let format = "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
            self.namespace.kubectl(&["get", "nodes", "-o", format])
        });
        let format = "jsonpath={.spec.ports[0].nodePort}";
        let port = self.namespace.kubectl(&["get", "service", "lonja-gateway", "-o", format]);
        format!("{node}:{port}").parse().expect("an address of a node")
    }

    /// Opens a way to the audit's gRPC port. It ends with the pod that it leads to.
    pub(crate) fn audit(&self) -> Forward {
        self.namespace.forward("service/lonja-audit", 50051)
    }
}

/// Runs the chart's Redis in a namespace of its own, as if somebody else ran it, and names it in the
/// values.
fn redis_outside(namespace: &Namespace, chart: &std::path::Path, values: &mut Vec<String>) -> Namespace {
    let outside = Namespace::create("lonja-test-outside");
    let chart = chart.display().to_string();
    let parts = ["--show-only", "templates/redis.yaml", "--show-only", "templates/serviceaccount.yaml"];
    let redis = outside
        .helm(&[&["template", OUTSIDE, &chart, "--set", "fullnameOverride=outside"], &parts[..]].concat());
    assert!(redis.success, "{}", redis.stderr);
    outside.apply(&redis.stdout);
    outside.kubectl(&["rollout", "status", "statefulset/outside-redis", "--timeout=120s"]);
    let get = ["get", "secret", "outside-redis", "-o", "jsonpath={.data}"];
    let secret = outside.kubectl(&get);
    namespace.apply(&format!(
        "{{\"apiVersion\": \"v1\", \"kind\": \"Secret\", \"metadata\": {{\"name\": \"outside-redis\"}}, \"data\": {secret}}}"
    ));
    values.extend([
        "redis.enabled=false".to_owned(),
        format!("externalRedis.host=outside-redis-primary.{}", outside.name),
        "externalRedis.existingSecret=outside-redis".to_owned(),
    ]);
    outside
}

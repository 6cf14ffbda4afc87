"""The chart, rendered by Helm's own engine and held against Kubernetes' own schemas.

    make test-helm

Each file of helm/lonja/ci has the values of a supported shape. `make helm-examples` renders
two of the shapes to helm/lonja/examples, and a test compares these with a new rendering.
"""

import base64
import json
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).parent.parent.parent
CHART = ROOT / "helm" / "lonja"
SHAPES = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*.yaml"))}
# The shapes that are rendered for people to read: what most install, and everything switched on.
EXAMPLES = ["default", "ha"]
RELEASE, NAMESPACE = "demo", "p2p"
OLDEST, NEWEST = "1.27", kubernetes_validate.latest_version()
# Kinds of objects that only extensions of Kubernetes have, so that its schemas lack them.
CUSTOM = {"ServiceMonitor", "Certificate", "Issuer"}
GRPC = {"registry", "catalog", "audit"}
CALLERS = {"gateway", "console"}
PROBED = {"gateway", "datetime"}
ROLES = CALLERS | PROBED | GRPC


class Refused(Exception):
    """Raised when Helm refuses to render values."""


def render(values, release=RELEASE):
    """Renders the manifests by file, with `helm` where it is installed, else with its SDK. Neither sees
    a cluster, so extensions are checked only where the values ask for that."""
    values = {"checkExtensions": False, **values}
    if shutil.which("helm"):
        command = ["helm", "template", release, str(CHART), "--namespace", NAMESPACE, "--values", "-"]
        done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
        if done.returncode:
            raise Refused(done.stderr)
        return {"all": done.stdout}
    from helm_python.chart import Chart
    from helm_python.errors import HelmError

    try:
        with Chart.load(CHART) as chart:
            chart.validate_schema(values)
            files = chart.render(values=values, name=release, namespace=NAMESPACE)
    except HelmError as error:
        raise Refused(str(error)) from error
    return {name: text for name, text in files.items() if name.endswith(".yaml")}


def objects(values, release=RELEASE):
    """Every object of a rendering, sorted by kind and name."""
    documents = (document for text in render(values, release).values() for document in yaml.safe_load_all(text))
    return sorted((document for document in documents if document), key=lambda o: (o["kind"], o["metadata"]["name"]))


def shape(name):
    return yaml.safe_load(SHAPES[name].read_text(encoding="utf-8"))


def without_chance(manifests):
    """Replaces the passwords, which each rendering makes up anew."""
    for manifest in manifests:
        if manifest["kind"] == "Secret":
            manifest["data"] = {key: "(made up)" for key in manifest["data"]}
    return manifests


def example(name):
    return yaml.safe_dump_all(without_chance(objects(shape(name))), sort_keys=True, width=100)


def pods(manifests):
    """The name and the template of every pod."""
    for manifest in manifests:
        if manifest["kind"] == "Pod":
            yield manifest["metadata"]["name"], manifest
        elif "template" in manifest.get("spec", {}):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]


def of_kind(manifests, kind):
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def component(labels):
    return labels.get("app.kubernetes.io/component")


class Rendering(unittest.TestCase):
    def test_every_shape_is_valid_on_the_oldest_and_the_newest_kubernetes(self):
        for name in SHAPES:
            manifests = objects(shape(name))
            self.assertGreater(len(manifests), 10)
            for manifest in manifests:
                if manifest["kind"] in CUSTOM:
                    continue
                for version in (OLDEST, NEWEST):
                    with self.subTest(shape=name, kind=manifest["kind"], version=version):
                        kubernetes_validate.validate(manifest, version, strict=True)

    def test_the_chart_passes_lint(self):
        for name in SHAPES:
            if shutil.which("helm"):
                command = ["helm", "lint", "--strict", str(CHART), "--values", str(SHAPES[name])]
                command += ["--set", "checkExtensions=false"]
                subprocess.run(command, check=True, capture_output=True)
            else:
                from helm_python.chart import lint

                report = lint(CHART, {**shape(name), "checkExtensions": False}, strict=True)
                problems = [m for m in report.get("messages", []) if "icon is recommended" not in str(m)]
                self.assertEqual(problems, [], name)

    def test_a_mistyped_key_is_refused(self):
        for wrong in (
            {"gatway": {}},
            {"gateway": {"replica": 3}},
            {"redis": {"persistence": {"sise": "1Gi"}}},
            {"gateway": {"service": {"type": "Loadbalancer"}}},
            {"registry": {"replicas": "three"}},
            {"tracing": {"ratio": 2}},
        ):
            with self.subTest(values=wrong), self.assertRaises(Refused):
                render(wrong)
        render({"global": {"anything": "goes"}})

    def test_tls_mounts_the_certificate_of_the_role(self):
        for values, secret in (({"tls": {"enabled": True}}, "demo-lonja-{}-tls"), (shape("cluster"), "{}-tls")):
            manifests = objects(values)
            made = {c["spec"]["secretName"]: c["spec"]["dnsNames"] for c in of_kind(manifests, "Certificate") if "dnsNames" in c["spec"]}
            for deployment in of_kind(manifests, "Deployment"):
                role = component(deployment["metadata"]["labels"])
                spec = deployment["spec"]["template"]["spec"]
                if role not in GRPC | CALLERS:
                    self.assertNotIn("volumes", spec)
                    continue
                name = spec["volumes"][0]["secret"]["secretName"]
                self.assertEqual(name, secret.format(role))
                if made:
                    self.assertEqual(made[name], [f"lonja-{role}"])
                # The kubelet has no certificate, so it cannot probe over gRPC.
                self.assertIn("httpGet", spec["containers"][0]["readinessProbe"])
        with self.assertRaisesRegex(Refused, r"tls.existingSecrets\.\w+ is needed"):
            render({"tls": {"enabled": True, "certManager": {"enabled": False}}})

    def test_a_redis_that_is_nowhere_is_refused(self):
        with self.assertRaisesRegex(Refused, "externalRedis.host is needed"):
            render({"redis": {"enabled": False}})

    def test_a_missing_extension_is_named(self):
        for values, name in (
            ({"tls": {"enabled": True}}, "cert-manager.io/v1"),
            ({"serviceMonitor": {"enabled": True}}, "monitoring.coreos.com/v1"),
            ({"prometheusRule": {"enabled": True}}, "monitoring.coreos.com/v1"),
        ):
            with self.subTest(values=values), self.assertRaisesRegex(Refused, f"the cluster has no {name}"):
                render({**values, "checkExtensions": True})
        render({**shape("cluster"), "checkExtensions": True})

    def test_another_version_alone_restarts_no_pod(self):
        for name in SHAPES:
            for pod, template in pods(objects(shape(name))):
                labels = template["metadata"]["labels"]
                with self.subTest(shape=name, pod=pod):
                    if component(labels) != "test":
                        self.assertNotIn("helm.sh/chart", labels)
                        self.assertNotIn("app.kubernetes.io/version", labels)

    def test_two_releases_live_in_one_namespace(self):
        names = [
            {(manifest["kind"], manifest["metadata"]["name"]) for manifest in objects({}, release)}
            for release in ("one", "two")
        ]
        self.assertEqual(names[0] & names[1], set())

    def test_examples_are_current(self):
        for name in EXAMPLES:
            path = CHART / "examples" / f"{name}.yaml"
            self.assertEqual(path.read_text(encoding="utf-8"), example(name), "run `make helm-examples`")

    def test_the_readme_is_current(self):
        made = subprocess.run([sys.executable, ROOT / "helm" / "readme.py"], capture_output=True, text=True, check=True)
        current = (CHART / "README.md").read_text(encoding="utf-8")
        self.assertEqual(current, made.stdout, "run `make helm-readme`")

    def test_the_schema_has_every_key(self):
        def compare(values, schema, path):
            for key, value in values.items():
                self.assertIn(key, schema["properties"], f"{path}.{key} is not in values.schema.json")
                below = schema["properties"][key]
                if isinstance(value, dict) and "properties" in below:
                    compare(value, below, f"{path}.{key}")
            self.assertEqual(set(schema["properties"]) - set(values) - {"global"}, set(), path)

        values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
        compare(values, json.loads((CHART / "values.schema.json").read_text(encoding="utf-8")), "")

    def test_redis_is_configured_as_in_compose(self):
        for name in ("redis.conf", "redis-start.sh", "redis-users.sh"):
            self.assertEqual((CHART / "files" / name).read_bytes(), (ROOT / "deploy" / name).read_bytes(), name)

    def test_alerts_and_dashboard_are_those_of_compose(self):
        observability = ROOT / "deploy" / "observability"
        self.assertFalse(of_kind(objects({}), "PrometheusRule"))
        values = {"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}, "checkExtensions": False}
        manifests = objects(values | {"serviceMonitor": {"enabled": True}})
        [rule] = of_kind(manifests, "PrometheusRule")
        alerts = yaml.safe_load((observability / "alerts.yml").read_text(encoding="utf-8"))
        self.assertEqual(rule["spec"], alerts)
        dashboards = [one for one in of_kind(manifests, "ConfigMap") if "lonja.json" in one["data"]]
        self.assertEqual([one["metadata"]["labels"]["grafana_dashboard"] for one in dashboards], ["1"])
        dashboard = (observability / "grafana" / "dashboards" / "lonja.json").read_text(encoding="utf-8")
        self.assertEqual(json.loads(dashboards[0]["data"]["lonja.json"]), json.loads(dashboard))
        # The alerts name the jobs as compose's Prometheus does.
        [monitor] = of_kind(manifests, "ServiceMonitor")
        label = monitor["spec"]["jobLabel"]
        ports = lambda service: {port.get("name") for port in service["spec"]["ports"]}
        jobs = {one["metadata"]["labels"][label] for one in of_kind(manifests, "Service") if "admin" in ports(one)}
        self.assertEqual(jobs, ROLES)

    def test_the_console_can_be_left_out(self):
        everything = json.dumps(objects({"console": {"enabled": False}}))
        self.assertNotIn("console", everything)

    def test_each_service_has_its_own_user_and_password(self):
        manifests = objects({})
        secret = of_kind(manifests, "Secret")[0]["data"]
        self.assertEqual(set(secret), GRPC | {"operator"})
        passwords = {base64.b64decode(value) for value in secret.values()}
        self.assertEqual({len(password) for password in passwords}, {32})
        self.assertEqual(len(passwords), 4)
        for deployment in of_kind(manifests, "Deployment"):
            role = component(deployment["metadata"]["labels"])
            env = {e["name"]: e for e in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
            if role in GRPC:
                store = env["LONJA_STORE"]["value"]
                host = "demo-lonja-redis-primary"
                self.assertEqual(store, f"redis://{role}:$(LONJA_REDIS_PASSWORD)@{host}:6379")
                self.assertEqual(env["LONJA_REDIS_PASSWORD"]["valueFrom"]["secretKeyRef"]["key"], role)
            else:
                self.assertNotIn("LONJA_REDIS_PASSWORD", env)


class Security(unittest.TestCase):
    def test_every_pod_is_restricted(self):
        for name in SHAPES:
            for pod, template in pods(objects(shape(name))):
                with self.subTest(shape=name, pod=pod):
                    self.restricted(template["spec"])

    def restricted(self, spec):
        """Asserts the restricted profile of pod security, and what Lonja asks besides."""
        for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
            self.assertFalse(spec.get(forbidden))
        context = spec["securityContext"]
        self.assertTrue(context["runAsNonRoot"])
        self.assertGreater(context["runAsUser"], 0)
        self.assertEqual(context["seccompProfile"], {"type": "RuntimeDefault"})
        allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "projected", "downwardAPI", "csi"}
        for volume in spec.get("volumes", []):
            self.assertTrue(set(volume) - {"name"} <= allowed, volume)
        for container in spec["containers"] + spec.get("initContainers", []):
            security = container["securityContext"]
            self.assertFalse(security["allowPrivilegeEscalation"])
            self.assertEqual(security["capabilities"], {"drop": ["ALL"]})
            self.assertTrue(security["readOnlyRootFilesystem"])
            self.assertNotIn("privileged", security)
            self.assertFalse(any("hostPort" in port for port in container.get("ports", [])))
            self.assertIn("memory", container["resources"]["limits"])
        self.assertFalse(spec["enableServiceLinks"])
        self.assertFalse(spec["automountServiceAccountToken"])


class Edges(unittest.TestCase):
    """The network policies are the star of calls: an edge needs a policy at both of its ends."""

    def edges(self, values):
        policies = of_kind(objects(values), "NetworkPolicy")
        deny = next(policy for policy in policies if policy["metadata"]["name"].endswith("deny-all"))
        self.assertNotIn(component(deny["spec"]["podSelector"]["matchLabels"]), ROLES)
        self.assertEqual(deny["spec"]["policyTypes"], ["Ingress", "Egress"])
        self.assertNotIn("ingress", deny["spec"])
        self.assertNotIn("egress", deny["spec"])
        into, out = set(), set()
        for policy in policies:
            role = component(policy["spec"]["podSelector"]["matchLabels"])
            if role is None:
                continue
            for direction, side, edges in (("ingress", "from", into), ("egress", "to", out)):
                for rule in policy["spec"].get(direction) or []:
                    for port in (port.get("port", "any") for port in rule["ports"]):
                        for peer in rule.get(side) or [None]:
                            edges.add((role, self.name(peer), port))
        return into, out

    def name(self, peer):
        if peer is None:
            return "anyone"
        if "podSelector" in peer:
            labels = peer["podSelector"]["matchLabels"]
            self.assertEqual(labels["app.kubernetes.io/instance"], RELEASE)
            return component(labels)
        if "ipBlock" in peer:
            return peer["ipBlock"]["cidr"]
        labels = peer["namespaceSelector"].get("matchLabels", {})
        return labels.get("kubernetes.io/metadata.name", "any namespace")

    def test_the_default_is_the_star_and_nothing_else(self):
        into, out = self.edges({})
        self.assertEqual(
            into,
            {("gateway", "anyone", "peers"), ("datetime", "anyone", "soap")}
            | {(role, caller, "grpc") for role in GRPC for caller in CALLERS}
            | {(role, "console", "admin") for role in PROBED}
            | {("redis", role, "redis") for role in GRPC},
        )
        self.assertEqual(
            out,
            {(caller, role, "grpc") for role in GRPC for caller in CALLERS}
            | {("console", role, "admin") for role in PROBED}
            | {(role, "redis", "redis") for role in GRPC}
            | {("test", "gateway", "peers"), ("test", "datetime", "soap")}
            | {(role, "anyone", 53) for role in ROLES | {"test"}},
        )

    def test_a_gateway_that_checks_peers_may_dial_them(self):
        (_, without), (_, out) = self.edges({}), self.edges({"gateway": {"checkPeers": 60}})
        self.assertEqual(out - without, {("gateway", "0.0.0.0/0", "any")})

    def test_every_call_inside_is_allowed_at_both_ends(self):
        for name in SHAPES:
            values = shape(name)
            if values.get("networkPolicy", {}).get("enabled") is False:
                self.assertEqual(of_kind(objects(values), "NetworkPolicy"), [])
                continue
            into, out = self.edges(values)
            inside = {(a, b, port) for a, b, port in out if b in ROLES | {"redis", "jaeger"}}
            reached = {(b, a, port) for a, b, port in into if b != "anyone"} | {
                (a, b, port) for a, b, port in inside if (b, "anyone", port) in into
            }
            # Who reads metrics or opens the console is outside the release, and is left out here.
            self.assertEqual(inside, {edge for edge in reached if edge[0] in ROLES | {"test"}}, name)

    def test_options_open_what_they_need(self):
        into, out = self.edges(shape("ha"))
        self.assertTrue({(role, "monitoring", "admin") for role in ROLES} <= into)
        self.assertTrue({(role, "observability", 4317) for role in ROLES} <= out)
        self.assertIn(("console", "ingress", "page"), into)
        into, out = self.edges(shape("external-redis"))
        self.assertTrue({(role, "anyone", 6380) for role in GRPC} <= out)
        self.assertTrue({(role, "jaeger", "otlp") for role in ROLES} <= out)
        into, out = self.edges(shape("cluster"))
        self.assertTrue({(role, "anyone", port) for role in GRPC for port in (6379, 6380, 6381)} <= out)
        pods = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}]
        into, out = self.edges({"networkPolicy": {"dnsTo": pods}})
        self.assertEqual({to for _, to, port in out if port == 53}, {"kube-system"})
        data = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "data"}}}]
        into, out = self.edges({**shape("cluster"), "networkPolicy": {"redisTo": data}})
        self.assertEqual({to for _, to, port in out if port == 6380}, {"data"})
        for endpoint, port in (("http://collector", 80), ("http://[::1]:4000", 4000)):
            into, out = self.edges({"tracing": {"endpoint": endpoint}})
            self.assertTrue({(role, "anyone", port) for role in ROLES} <= out, endpoint)


class Running(unittest.TestCase):
    def test_probes_ask_what_the_services_answer(self):
        proto = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "proto").rglob("*.proto"))
        services = set(re.findall(r"^service (\w+)", proto, re.MULTILINE))
        for deployment in of_kind(objects({}), "Deployment"):
            container = deployment["spec"]["template"]["spec"]["containers"][0]
            ready = container["readinessProbe"]
            if component(deployment["metadata"]["labels"]) in GRPC:
                self.assertIn(ready["grpc"]["service"].split(".")[-1], services)
            else:
                self.assertEqual(ready["httpGet"], {"path": "/readyz", "port": "admin"})
            grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
            pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
            drain = re.search(
                r"DRAIN: Duration = Duration::from_secs\((\d+)\)",
                (ROOT / "crates/chassis/src/shutdown.rs").read_text(encoding="utf-8"),
            )
            self.assertGreater(grace, pause + int(drain[1]))

    def test_every_variable_is_one_that_lonja_reads(self):
        sources = (path for top in ("crates", "services", "src") for path in (ROOT / top).rglob("*.rs"))
        known = {name for path in sources for name in re.findall(r'"(LONJA_\w+)"', path.read_text(encoding="utf-8"))}
        self.assertIn("LONJA_LISTEN", known)
        for name in SHAPES:
            for deployment in of_kind(objects(shape(name)), "Deployment"):
                for container in deployment["spec"]["template"]["spec"]["containers"]:
                    for variable in (e["name"] for e in container.get("env", [])):
                        if variable.startswith("LONJA_") and variable != "LONJA_REDIS_PASSWORD":
                            self.assertIn(variable, known)


if __name__ == "__main__":
    if sys.argv[1:] == ["examples"]:
        (CHART / "examples").mkdir(exist_ok=True)
        for each in EXAMPLES:
            (CHART / "examples" / f"{each}.yaml").write_text(example(each), encoding="utf-8")
    else:
        unittest.main()

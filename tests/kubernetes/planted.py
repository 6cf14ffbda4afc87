#!/usr/bin/env python3
"""Plants faults in copies of the chart, one at a time, and asserts that `make test-kubernetes` finds each.

usage: tests/kubernetes/planted.py [NUMBER ...]     the faults of these numbers; all without an argument

Takes the settings of `make test-kubernetes` (tests/kubernetes/README.md), and half an hour.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent.parent
CHART = ROOT / "helm" / "lonja"
POLICIES = "templates/networkpolicies.yaml"
# What is wrong, the file, what stands there, what is put in its place, and a part of the failure by
# which the test must find that.
FAULTS = [
    (
        "peers are led to another port",
        "templates/services.yaml",
        "targetPort: {{ $port }}",
        "targetPort: admin",
        'helm ["test"',
    ),
    (
        "a policy lacks the calls of the gateway",
        POLICIES,
        "{{- if has $role $callers }}",
        '{{- if eq $role "console" }}',
        'helm ["install"',
    ),
    (
        "nothing may ask for names",
        POLICIES,
        "{port: 53, protocol: UDP}",
        "{port: 54, protocol: UDP}",
        'helm ["install"',
    ),
    (
        "a probe asks another path",
        "templates/deployments.yaml",
        "path: /livez",
        "path: /alive",
        'helm ["install"',
    ),
    (
        "Redis keeps an old configuration",
        "templates/redis.yaml",
        "checksum/config:",
        "checksum: #",
        'right: ["redis"]',
    ),
    (
        "an upgrade makes new passwords",
        "templates/redis.yaml",
        "index $known . | default (randAlphaNum 32 | b64enc)",
        "randAlphaNum 32 | b64enc",
        "upgrade",
    ),
    (
        "each version restarts every pod",
        "templates/_helpers.tpl",
        'app.kubernetes.io/part-of: lonja\n{{- with .root.Values.commonLabels }}\n{{ toYaml . }}\n{{- end }}\n{{- end -}}\n\n{{- define "lonja.image"',
        'app.kubernetes.io/part-of: {{ .root.Chart.Version }}\n{{- end -}}\n\n{{- define "lonja.image"',
        "right: []",
    ),
    (
        "an upgrade ends all pods of a service at one time",
        "templates/deployments.yaml",
        "{maxUnavailable: 0, maxSurge: 1}",
        "{maxUnavailable: 100%, maxSurge: 0}",
        "after another value of every service",
    ),
    (
        "a pod that ends takes no last calls",
        "values.yaml",
        "preStopSeconds: 5",
        "preStopSeconds: 0",
        "after gateway deleted",
    ),
    (
        "Redis has no volume",
        "values.yaml",
        "    enabled: true\n    # -- Size of the volume.",
        "    enabled: false\n    # -- Size of the volume.",
        "these are not there once",
    ),
    (
        "pods may run as root",
        "templates/_helpers.tpl",
        "runAsNonRoot: true",
        "runAsNonRoot: false",
        "PodSecurity",
    ),
    (
        "traces go to another port",
        "templates/_helpers.tpl",
        "-jaeger:4317",
        "-jaeger:4318",
        "a whole trace for each request",
    ),
    (
        "uninstall leaves a secret",
        "templates/redis.yaml",
        "type: Opaque",
        "  annotations: {helm.sh/resource-policy: keep}\ntype: Opaque",
        "the release is gone",
    ),
    (
        "a password has another key",
        "templates/deployments.yaml",
        "key: {{ $role }}}}",
        "key: the-{{ $role }}}}",
        'helm ["install"',
    ),
    (
        "a Service selects pods of another role",
        "templates/services.yaml",
        '(dict "root" $root "role" $role) | nindent 4 }}\n  ports:\n    - {name: grpc',
        '(dict "root" $root "role" "datetime") | nindent 4 }}\n  ports:\n    - {name: grpc',
        'helm ["install"',
    ),
    (
        "the name of the port leads to another port",
        "templates/deployments.yaml",
        "{name: peers, containerPort: 5050}",
        "{name: peers, containerPort: 5051}",
        'helm ["test"',
    ),
    (
        "the services log in as a user that is not there",
        "templates/_helpers.tpl",
        "{{- $user := .role -}}",
        '{{- $user := "nobody" -}}',
        'helm ["install"',
    ),
]


def found(number, folder):
    """Runs the test on a chart with this fault, and gives the lines by which it failed, and whether
    they say what they must."""
    what, file, here, there, expected = FAULTS[number]
    chart = folder / str(number)
    shutil.copytree(CHART, chart)
    text = (chart / file).read_text(encoding="utf-8")
    if here not in text:
        sys.exit(f"{file} does not have what the fault {what!r} replaces")
    (chart / file).write_text(text.replace(here, there, 1), encoding="utf-8")
    environment = {**os.environ, "LONJA_TEST_CHART": str(chart), "LONJA_TEST_TIMEOUT": "45s"}
    command = ["cargo", "test", "--quiet", "--test", "kubernetes", "--", "--nocapture"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    at = next((at for at, line in enumerate(lines) if " panicked at " in line), None)
    if done.returncode == 0 or at is None:
        return [], False
    lines = lines[at : at + 8]
    return [line[:300] for line in lines[:4] if line.strip()], any(expected in line for line in lines)


def main(numbers):
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers or range(len(FAULTS)):
            lines, is_found = found(number, pathlib.Path(folder))
            print(f"{number} {FAULTS[number][0]}: {'found' if is_found else 'NOT FOUND'}", flush=True)
            for line in lines:
                print(f"    {line}", flush=True)
            missed += not is_found
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main([int(number) for number in sys.argv[1:]]))

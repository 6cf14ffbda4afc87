"""The command `cluster`: it starts one cluster, and leaves nothing of it behind.

    make test-cluster

Needs root and the programs (`tests/kubernetes/cluster tools`). A cluster that runs is stopped.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).parent
COMMAND = HERE / "cluster"
sys.path.insert(0, str(HERE))

from offline import Failed, need_debian, node, programs  # noqa: E402 (the path comes first)


def cluster(*arguments):
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)


def left_behind():
    """What of this machine a cluster changes."""

    def lines(*command):
        printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        # Comments have the time, and chains have counters.
        return [re.sub(r"\[\d+:\d+\]", "", line) for line in printed.splitlines() if not line.startswith("#")]

    return {
        "links": [line.split(":")[1].split("@")[0] for line in lines("ip", "-o", "link")],
        "addresses": lines("ip", "-o", "-4", "address", "show", "dev", "lo"),
        "namespaces": lines("ip", "netns", "list"),
        # Without the kernel's own chains, which are there from the first use of their table on.
        "rules": [line for line in lines("iptables-save") if line.startswith("-A") or " - " in line],
        "forward": lines("iptables", "-S", "FORWARD")[:1],
        "sets": lines("ipset", "list", "-name"),
        "mounts": [line for line in lines("mount") if "lonja-cluster" in line],
        "processes": [line for line in lines("ps", "-eo", "args") if str(node.STATE) in line],
        "state": node.STATE.exists(),
    }


class Cluster(unittest.TestCase):
    maxDiff = None

    def test_a_cluster_is_started_once_and_leaves_nothing_behind(self):
        programs.build()
        need_debian(*node.PACKAGES)
        node.down()
        before = left_behind()
        self.assertEqual((before["mounts"], before["processes"], before["state"]), ([], [], False))
        self.addCleanup(cluster, "down")
        started = cluster("up")
        self.assertEqual(started.returncode, 0, started.stderr)
        kubeconfig = started.stdout.strip()
        names = ("etcd", "kube-apiserver", "containerd", "kubelet", "kube-proxy", "kube-router")
        processes = {name: node.pid_of(name) for name in names}
        self.assertNotIn(None, processes.values())
        self.restricted_pods_only(kubeconfig)

        self.assertEqual(cluster("up").stdout.strip(), kubeconfig)
        self.assertEqual({name: node.pid_of(name) for name in names}, processes)
        refused = cluster("up", "--node-dns")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("a cluster with another name service runs", refused.stderr)

        self.assertEqual(cluster("down").returncode, 0)
        self.assertEqual(left_behind(), before)
        self.assertEqual(cluster("down").returncode, 0)

    def restricted_pods_only(self, kubeconfig):
        """A namespace that asks for restricted pods refuses another."""
        kubectl = [programs.program("kubectl"), f"--kubeconfig={kubeconfig}"]
        subprocess.run([*kubectl, "create", "namespace", "strict"], check=True, capture_output=True)
        label = "pod-security.kubernetes.io/enforce=restricted"
        subprocess.run([*kubectl, "label", "namespace", "strict", label], check=True, capture_output=True)
        run = [*kubectl, "-n", "strict", "run", "pod", "--image=any", "--restart=Never"]
        refused = subprocess.run(run, capture_output=True, text=True, check=False)
        self.assertIn("violates PodSecurity", refused.stderr)


class Programs(unittest.TestCase):
    def test_an_unknown_program_is_named(self):
        refused = cluster("tools", "helmet")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("no program helmet", refused.stderr)

    def test_every_module_says_the_version_and_has_the_sums(self):
        self.assertEqual(set(programs.PACKAGES), {path.name for path in programs.MODULES.iterdir()})
        for module in programs.PACKAGES:
            number = programs.version(module)
            sums = (programs.MODULES / module / "go.sum").read_text(encoding="utf-8")
            self.assertIn(f" {number} h1:", sums, module)

    def test_another_sum_is_another_program(self):
        with tempfile.TemporaryDirectory() as copies:
            modules = programs.MODULES
            try:
                programs.MODULES = pathlib.Path(copies)
                (programs.MODULES / "helm").mkdir()
                for file in ("go.mod", "go.sum"):
                    (programs.MODULES / "helm" / file).write_bytes((modules / "helm" / file).read_bytes())
                same = programs.folder("helm")
                with open(programs.MODULES / "helm" / "go.sum", "a", encoding="utf-8") as sums:
                    sums.write("another v1.0.0 h1:sum\n")
                other = programs.folder("helm")
            finally:
                programs.MODULES = modules
            self.assertEqual(same, programs.folder("helm"))
            self.assertNotEqual(same, other)

    def test_a_program_that_is_not_built_is_named(self):
        with self.assertRaisesRegex(Failed, "nothing is not built"):
            programs.program("nothing")


if __name__ == "__main__":
    unittest.main()

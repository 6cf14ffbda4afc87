"""Starts and stops the cluster: one node, each program a process of this machine."""

import json
import os
import pathlib
import shutil
import signal
import string
import subprocess
import time

from . import HERE, Failed, authority, engine, images, need_debian, programs, run, say

STATE = pathlib.Path(os.environ.get("LONJA_CLUSTER_STATE", "/var/lib/lonja-cluster"))
RUN, LOGS, CONFIG = STATE / "run", STATE / "logs", STATE / "config"
SOCKET = RUN / "containerd.sock"
NODE, ADDRESS, API_PORT = "node-1", "10.123.0.1", 6443
PODS, SERVICES = "10.244.0.0/16", "10.96.0.0/16"
API_SERVICE, DNS_SERVICE = "10.96.0.1", "10.96.0.10"
BRIDGE = "lonja-pods"
ETCD = "http://127.0.0.1:12379"
PAUSE_IMAGE = "docker.io/lonja-cluster/pause:1"
COREDNS_IMAGE = "docker.io/lonja-cluster/coredns:1"
VOLUMES = 32
PACKAGES = (
    "etcd-server containerd runc containernetworking-plugins iptables iproute2 conntrack openssl "
    "ethtool socat ipset kmod procps"
).split()


def up(node_dns):
    """Starts what does not run yet, waits until the node is ready and names are resolved, and gives
    the path of the administrator's kubeconfig."""
    if os.geteuid() != 0:
        raise Failed("needs root: it starts containers and sets up their network")
    programs.build()
    need_debian(*PACKAGES)
    if not STATE.exists() and "KUBE-" in run("iptables-save").decode():
        raise Failed("another Kubernetes runs on this machine: their rules could not be told apart")
    configure(node_dns)
    set_up_network()
    start_control_plane()
    load_own_images()
    start_node()
    apply(fill("volume-class.yaml"))
    make_volumes()
    apply(fill("names.yaml"))
    ready("the node", 90, "wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=1s")
    kubectl("label", "node", NODE, "topology.kubernetes.io/zone=zone-1", "--overwrite")
    ready("the name service", 90, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=1s")
    # kube-router starts last: its rules must come after those of kube-proxy.
    start(
        "kube-router",
        f"--kubeconfig={CONFIG}/system.conf",
        f"--hostname-override={NODE}",
        "--run-firewall=true",
        "--run-router=false",
        "--run-service-proxy=false",
        f"--service-cluster-ip-range={SERVICES}",
        "--health-port=0",
    )
    return CONFIG / "admin.conf"


# --- configuration -----------------------------------------------------------------------------


def settings():
    """What the templates of offline/config are filled with."""
    on_node = (CONFIG / "node-dns").exists()
    return {
        "state": STATE,
        "run": RUN,
        "logs": LOGS,
        "config": CONFIG,
        "socket": SOCKET,
        "bridge": BRIDGE,
        "pods": PODS,
        "node_address": ADDRESS,
        "api_port": API_PORT,
        "dns_service": DNS_SERVICE,
        "dns_address": ADDRESS if on_node else DNS_SERVICE,
        "dns_bind": ADDRESS if on_node else "0.0.0.0",
        "dns_on_node": "true" if on_node else "false",
        "pause_image": PAUSE_IMAGE,
        "coredns_image": COREDNS_IMAGE,
    }


def fill(template, **more):
    text = (HERE / "config" / template).read_text(encoding="utf-8")
    return string.Template(text).substitute(settings(), **more)


def configure(node_dns):
    for folder in (RUN, LOGS, CONFIG / "cni"):
        folder.mkdir(parents=True, exist_ok=True)
    marker = CONFIG / "node-dns"
    if (CONFIG / "admin.conf").exists():
        if marker.exists() != node_dns:
            raise Failed("a cluster with another name service runs: stop it with `tests/kubernetes/cluster down`")
        return
    if node_dns:
        marker.touch()
    (CONFIG / "kubelet.yaml").write_text(fill("kubelet.yaml"), encoding="utf-8")
    (CONFIG / "containerd.toml").write_text(fill("containerd.toml"), encoding="utf-8")
    (CONFIG / "cni" / "10-pods.conflist").write_text(fill("network.json"), encoding="utf-8")
    authority.make(CONFIG, f"https://{ADDRESS}:{API_PORT}", ADDRESS, API_SERVICE, NODE)


def set_up_network():
    run("ip", "address", "replace", f"{ADDRESS}/32", "dev", "lo")
    for setting in ("net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"):
        # The second is there only with the kernel's bridge filter, and then matters.
        subprocess.run(["sysctl", "-qw", setting], capture_output=True, check=False)
    # A container engine drops what it does not know, and pods' packets are forwarded too.
    policy = RUN / "forward-policy"
    if not policy.exists():
        rules = run("iptables", "-S", "FORWARD").decode().split()
        policy.write_text(rules[2], encoding="utf-8")
    run("iptables", "-P", "FORWARD", "ACCEPT")


# --- processes ---------------------------------------------------------------------------------


def start_control_plane():
    start(
        "etcd",
        f"--data-dir={STATE}/etcd",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        "--listen-peer-urls=http://127.0.0.1:12380",
        # The cluster's state is thrown away with the cluster.
        "--unsafe-no-fsync",
    )
    start(
        "kube-apiserver",
        f"--etcd-servers={ETCD}",
        f"--advertise-address={ADDRESS}",
        f"--secure-port={API_PORT}",
        f"--client-ca-file={CONFIG}/ca.crt",
        f"--tls-cert-file={CONFIG}/api.crt",
        f"--tls-private-key-file={CONFIG}/api.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={CONFIG}/accounts.key",
        f"--service-account-signing-key-file={CONFIG}/accounts.key",
        f"--service-cluster-ip-range={SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
    )
    start("containerd", "-c", CONFIG / "containerd.toml")
    ready("the API server", 120, "get", "--raw", "/readyz")
    start(
        "kube-controller-manager",
        f"--kubeconfig={CONFIG}/controller.conf",
        "--bind-address=127.0.0.1",
        f"--service-account-private-key-file={CONFIG}/accounts.key",
        f"--root-ca-file={CONFIG}/ca.crt",
        "--use-service-account-credentials",
        "--leader-elect=false",
    )
    start(
        "kube-scheduler",
        f"--kubeconfig={CONFIG}/scheduler.conf",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    )


def start_node():
    start(
        "kubelet",
        f"--config={CONFIG}/kubelet.yaml",
        f"--kubeconfig={CONFIG}/node.conf",
        f"--hostname-override={NODE}",
        f"--node-ip={ADDRESS}",
        f"--root-dir={STATE}/kubelet",
    )
    start(
        "kube-proxy",
        f"--kubeconfig={CONFIG}/proxy.conf",
        f"--hostname-override={NODE}",
        f"--cluster-cidr={PODS}",
        "--proxy-mode=iptables",
        # The limits of the machine's connection table stay as they are.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
        "--healthz-bind-address=127.0.0.1:10256",
        "--metrics-bind-address=127.0.0.1:10249",
    )


def pid_of(name):
    """The process that was started under this name, if it still runs."""
    try:
        pid = int((RUN / f"{name}.pid").read_text(encoding="utf-8"))
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if name.encode() in command.split(b"\0", 1)[0] else None


def start(name, *arguments):
    if pid_of(name):
        return
    own = [programs.folder(module) / name for module in programs.PACKAGES]
    found = next((path for path in own if path.exists()), shutil.which(name))
    if not found:
        raise Failed(f"{name} is not installed")
    # Helpers of the programs, such as kubectl and iptables, are found on the path.
    environment = {**os.environ, "PATH": f"/usr/sbin:/sbin:{os.environ['PATH']}"}
    with open(LOGS / f"{name}.log", "ab") as log:
        process = subprocess.Popen(
            [str(part) for part in (found, *arguments)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
        )
    (RUN / f"{name}.pid").write_text(str(process.pid), encoding="utf-8")


def stop(name):
    pid = pid_of(name)
    if not pid:
        return
    os.kill(pid, signal.SIGTERM)
    for _ in range(50):
        if not pid_of(name):
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)


# --- use ---------------------------------------------------------------------------------------


def kubectl(*arguments, **options):
    command = [programs.program("kubectl"), f"--kubeconfig={CONFIG}/admin.conf", "--request-timeout=30s"]
    return run(*command, *arguments, **options)


def apply(manifest):
    kubectl("apply", "-f", "-", input=manifest.encode())


def ready(what, seconds, *question):
    """Waits until kubectl answers a question with success."""
    end = time.monotonic() + seconds
    while True:
        try:
            return kubectl(*question)
        except Failed as failure:
            if time.monotonic() > end:
                raise Failed(f"{what} is not ready after {seconds} s, {LOGS} says why: {failure}") from failure
            time.sleep(0.25)


def make_volumes():
    """Makes volumes, and makes those anew whose claim is gone."""
    known = json.loads(kubectl("get", "persistentvolumes", "-o", "json"))["items"]
    for volume in known:
        if volume["status"].get("phase") == "Released":
            kubectl("delete", "persistentvolume", volume["metadata"]["name"], "--timeout=60s")
            shutil.rmtree(volume["spec"]["hostPath"]["path"])
    for number in range(VOLUMES):
        folder = STATE / "volumes" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        # Any pod may write to a volume.
        folder.chmod(0o777)
        apply(fill("volume.yaml", name=f"local-{number}", path=folder))


def containerd(*arguments, **options):
    return run("ctr", "-a", SOCKET, "-n", "k8s.io", *arguments, **options)


def load_own_images():
    end = time.monotonic() + 30
    while True:
        try:
            present = containerd("images", "ls", "-q").decode().split()
            break
        except Failed as failure:
            if time.monotonic() > end:
                raise Failed(f"containerd is not ready after 30 s: {failure}") from failure
            time.sleep(0.25)
    for name, entrypoint in ((PAUSE_IMAGE, "/pause"), (COREDNS_IMAGE, "/coredns")):
        if name not in present:
            containerd("images", "import", "-", input=images.archive(name, entrypoint))


def load(names):
    if not pid_of("containerd"):
        raise Failed("no cluster runs: start it with `tests/kubernetes/cluster up`")
    for name in names:
        say(f"loads {name}")
        if subprocess.run([engine(), "image", "inspect", name], capture_output=True, check=False).returncode:
            raise Failed(f"the container engine has no image {name}")
        with subprocess.Popen([engine(), "save", name], stdout=subprocess.PIPE) as saving:
            containerd("images", "import", "-", stdin=saving.stdout)
            saving.stdout.close()


# --- end ---------------------------------------------------------------------------------------


def down():
    """Stops everything and removes what it left on the machine."""
    if not STATE.exists():
        return
    for name in ("kube-router", "kube-proxy", "kubelet", "kube-scheduler", "kube-controller-manager"):
        stop(name)
    if pid_of("containerd"):
        remove_containers()
    for name in ("containerd", "kube-apiserver", "etcd"):
        stop(name)
    end_processes_of_state()
    for line in reversed(pathlib.Path("/proc/mounts").read_text(encoding="utf-8").splitlines()):
        mounted = line.split()[1]
        if mounted.startswith(f"{STATE}/"):
            subprocess.run(["umount", "-l", mounted], capture_output=True, check=False)
    remove_network()
    shutil.rmtree(STATE, ignore_errors=True)


def remove_containers():
    ids = containerd("tasks", "ls", "-q").decode().split()
    for each in ids:
        # One that has just ended by itself is as good.
        subprocess.run(
            ["ctr", "-a", str(SOCKET), "-n", "k8s.io", "tasks", "rm", "-f", each], capture_output=True, check=False
        )


def end_processes_of_state():
    """Ends what holds a container and was not ended with it: its command line names the state."""
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if f"{RUN}/".encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            pass


def remove_network():
    for entry in json.loads(run("ip", "-j", "netns", "list") or b"[]"):
        if entry["name"].startswith("cni-"):
            subprocess.run(["ip", "netns", "delete", entry["name"]], capture_output=True, check=False)
    subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, check=False)
    subprocess.run(["ip", "address", "delete", f"{ADDRESS}/32", "dev", "lo"], capture_output=True, check=False)
    policy = RUN / "forward-policy"
    if policy.exists():
        run("iptables", "-P", "FORWARD", policy.read_text(encoding="utf-8"))
    for family in ("iptables", "ip6tables"):
        rules = run(f"{family}-save").decode().splitlines()
        kept = [line for line in rules if not any(mark in line for mark in ("KUBE-", "CNI-", f"-i {BRIDGE}"))]
        if kept != rules:
            run(f"{family}-restore", input="\n".join([*kept, ""]).encode())
    sets = run("ipset", "list", "-name").decode().split()
    for name in sets:
        if name.startswith(("KUBE-", "inet6:KUBE-", "kube-router", "inet6:kube-router")):
            subprocess.run(["ipset", "destroy", name], capture_output=True, check=False)

"""Builds the programs, each from its Go module, and keeps them in the cache.

A folder of offline/programs is a Go module whose go.mod and go.sum say which versions are built,
down to the last dependency. A change of either file gives a new folder in the cache.
"""

import fcntl
import hashlib
import os
import pathlib
import shutil
import tempfile

from . import HERE, Failed, need_debian, run, say

MODULES = HERE / "programs"
KUBERNETES = "k8s.io/kubernetes/cmd/"
# What each module's packages are, and whether they are to run in images without a C library.
PACKAGES = {
    "kubernetes": [
        KUBERNETES + name
        for name in (
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
        )
    ],
    "helm": ["helm.sh/helm/v4/cmd/helm"],
    "coredns": ["github.com/coredns/coredns"],
    "jaeger": ["github.com/jaegertracing/jaeger/cmd/jaeger"],
    "kube-router": ["github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"],
}
# The process that holds a pod's network namespace: it waits, and nothing else.
PAUSE = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"


def cache():
    return pathlib.Path(os.environ.get("LONJA_CLUSTER_CACHE", "/var/cache/lonja-cluster"))


def folder(name):
    """The folder of the cache that has a module's programs, if they are built."""
    made_from = b"".join((MODULES / name / file).read_bytes() for file in ("go.mod", "go.sum"))
    return cache() / f"{name}-{hashlib.sha256(made_from).hexdigest()[:12]}"


def known(names):
    unknown = set(names) - set(PACKAGES)
    if unknown:
        raise Failed(f"no program {' '.join(sorted(unknown))}; there are {' '.join(PACKAGES)}")
    return list(names) or list(PACKAGES)


def are_built(names=()):
    return all(folder(name).exists() for name in known(names))


def program(name):
    """The path of a program that is built."""
    for module in PACKAGES:
        if (found := folder(module) / name).exists():
            return found
    raise Failed(f"{name} is not built: run `tests/kubernetes/cluster tools`")


def version(module):
    """The version of what a module builds, as its go.mod says."""
    of = PACKAGES[module][0]
    for line in (MODULES / module / "go.mod").read_text(encoding="utf-8").splitlines():
        words = line.removeprefix("require").split()
        if len(words) >= 2 and words[1].startswith("v") and of.startswith(words[0]):
            return words[1]
    raise Failed(f"{module}/go.mod does not require what it builds")


def link_flags(module):
    flags = "-s -w"
    if module == "kubernetes":
        number = version(module)
        major, minor = number.removeprefix("v").split(".")[:2]
        for key, value in (("gitVersion", number), ("gitMajor", major), ("gitMinor", minor)):
            flags += f" -X k8s.io/component-base/version.{key}={value}"
    return flags


def build(names=()):
    """Builds the programs that are not in the cache yet."""
    wanted = known(names)
    cache().mkdir(parents=True, exist_ok=True)
    # Two builds at one time would do the same work twice.
    with open(cache() / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in wanted:
            if not folder(name).exists():
                build_module(name)
        (cache() / "bin").mkdir(exist_ok=True)
        for name in ("helm", "kubectl", "jaeger"):
            link_program(name)


def build_module(name):
    if not shutil.which("go"):
        raise Failed("install Go 1.26 or later: https://go.dev/doc/install")
    need_debian("gcc", "libc6-dev")
    say(f"builds {name} {version(name)}")
    with tempfile.TemporaryDirectory(dir=cache()) as made:
        # Kubernetes' own programs run on the node; the others may run in an image without libraries.
        environment = {**os.environ, "CGO_ENABLED": "1" if name == "kubernetes" else "0", "GOFLAGS": ""}
        command = ["go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false"]
        command += [f"-ldflags={link_flags(name)}", "-o", f"{made}/", *PACKAGES[name]]
        run(*command, cwd=MODULES / name, env=environment)
        if name == "kubernetes":
            run("gcc", "-static", "-O2", "-x", "c", "-o", f"{made}/pause", "-", input=PAUSE.encode())
        os.chmod(made, 0o755)
        os.rename(made, folder(name))
        # What the context removes at its end.
        os.mkdir(made)


def link_program(name):
    """Puts a program into the folder for the path, beside what is there."""
    try:
        target = program(name)
    except Failed:
        return
    link = cache() / "bin" / name
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def path():
    return cache() / "bin"

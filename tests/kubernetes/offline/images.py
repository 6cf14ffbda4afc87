"""Makes images of one program each, without an engine and without a base."""

import hashlib
import io
import json
import platform
import subprocess
import tarfile

from . import Failed, engine, programs


def archive(name, entrypoint, environment=()):
    """An image archive, which `docker load` and `ctr images import` take. The image has the program
    that `entrypoint` ends with, and a folder for temporary files."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        files.addfile(temporary)
        files.add(programs.program(entrypoint.rsplit("/", 1)[1]), entrypoint.lstrip("/"), filter=plain)
    layer = layer.getvalue()
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {"Entrypoint": [entrypoint], "Env": list(environment)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    config = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as files:
        parts = ((config_name, config), ("layer.tar", layer), ("manifest.json", json.dumps(manifest).encode()))
        for part, content in parts:
            entry = tarfile.TarInfo(part)
            entry.size = len(content)
            files.addfile(entry, io.BytesIO(content))
    return whole.getvalue()


def plain(entry):
    """A file as anybody may run it, whoever made it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755
    return entry


def make_jaeger(name):
    programs.build(["jaeger"])
    # As the public image: the program listens for other containers.
    image = archive(name, "/cmd/jaeger/jaeger", ["JAEGER_LISTEN_HOST=0.0.0.0"])
    done = subprocess.run([engine(), "load"], input=image, capture_output=True, check=False)
    if done.returncode:
        raise Failed(f"the container engine did not take {name}: {done.stderr.decode(errors='replace').strip()}")

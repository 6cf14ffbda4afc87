"""What the command `cluster` is made of."""

import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


class Failed(Exception):
    """Something that a person has to see, in one line that says what to do where that is known."""


def say(text):
    print(f"cluster: {text}", file=sys.stderr, flush=True)


def run(*command, **options):
    """Runs a command to its end and gives its standard output."""
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False, **options)
    if done.returncode:
        last = b"\n".join(done.stderr.strip().splitlines()[-5:]).decode(errors="replace")
        raise Failed(f"{command[0]} {command[1] if len(command) > 1 else ''} failed: {last}")
    return done.stdout


def engine():
    """The container engine's command. Some machines have another docker first on the path, which
    has no engine."""
    return "/usr/bin/docker" if os.path.exists("/usr/bin/docker") else "docker"


def need_debian(*packages):
    """Installs the Debian packages that are missing."""
    ask = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *packages]
    known = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.splitlines()
    missing = [package for package in packages if f"{package} installed" not in known]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Failed(f"install {' '.join(missing)}")
    say(f"installs {' '.join(missing)}")
    run("apt-get", "update", "-qq")
    install = ["apt-get", "-o", "DPkg::Lock::Timeout=120", "install", "-y", "-qq", "--no-install-recommends"]
    run(*install, *missing, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})

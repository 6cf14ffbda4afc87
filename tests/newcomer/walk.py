#!/usr/bin/env python3
"""Runs the commands of the README as they stand, as a person who has just cloned Lonja.

The commands of the first two sections run in a clone of what is committed, each block in a terminal of
its own. What they print must be what the README shows, but for times and for ports that the system
chooses. In the end a browser opens the console, and Lonja is started once more, which must compile
nothing. `make test-newcomer` runs this; the ports 5050, 8000 and 8080 must be free.
"""

import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Not below a temporary folder: what was built is kept for the next walk.
BUILD = ROOT / "target" / "newcomer"
CLONE = BUILD / "lonja"
SECTIONS = ("## Run it", "## Try it with two peers")
# Paths that the commands of the README write to.
WRITTEN = (pathlib.Path("/tmp/alice"), pathlib.Path("/tmp/copy.txt"))
# Seconds until the first build must be done, and anything else.
BUILD_PATIENCE, PATIENCE = 1800, 60


def blocks(readme):
    """The blocks of commands of the sections: lists of [command, lines that follow it]."""
    found = []
    for section in re.split(r"(?m)^(?=## )", readme):
        if section.partition("\n")[0] not in SECTIONS:
            continue
        for block in re.findall(r"(?m)(?:^    .*\n)+", section):
            commands = []
            for line in (line[4:] for line in block.splitlines()):
                if line.startswith("$ "):
                    commands.append([line[2:], []])
                else:
                    commands[-1][1].append(line)
            found.append(commands)
    return found


def plain(line):
    """A line without what differs each time: the time, and ports that the system chooses."""
    line = re.sub(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d", "TIME", line)
    return re.sub(r"\b[3-6]\d{4}\b", "PORT", line)


class Command:
    """A command in a terminal, whose lines are read as they come."""

    def __init__(self, text):
        print(f"$ {text}", flush=True)
        self.text = text
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith(("LONJA_", "CARGO_TARGET", "OTEL_"))}
        self.errors = open(BUILD / "stderr", "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            ["bash", "-c", text], cwd=CLONE, env=environment, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def expect(self, expected, patience):
        """Types what follows a prompt, and compares what is printed with the other lines."""
        for wanted in expected:
            if wanted.startswith("c> "):
                self.process.stdin.write(wanted[3:] + "\n")
                self.process.stdin.flush()
                continue
            try:
                line = self.lines.get(timeout=patience)
            except queue.Empty:
                self.fail(f"printed nothing within {patience} s; the README shows {wanted!r}")
            if line is None or plain(line) != plain(wanted):
                self.fail(f"printed {line!r}; the README shows {wanted!r}")
            print(line, flush=True)

    def said(self):
        """What the command has written to standard error."""
        self.errors.seek(0)
        return self.errors.read()

    def fail(self, why):
        sys.exit(f"{self.said()}\nnewcomer: `{self.text}` {why}")

    def has_ended(self):
        """Waits for the end of a command that ends by itself."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.fail("does not end")
        if status != 0:
            self.fail(f"ended with status {status}")

    def interrupt(self):
        """Ctrl-C, and the end."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
            self.process.wait(PATIENCE)


def clone():
    """A clone of what is committed, whose build folder outlives it."""
    shutil.rmtree(CLONE, ignore_errors=True)
    (BUILD / "target").mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "clone", "--quiet", ROOT, CLONE], check=True)
    (CLONE / "target").symlink_to(BUILD / "target")
    if dirty := subprocess.run(["git", "status", "--short", "--untracked-files=no"], cwd=ROOT, check=True,
                               capture_output=True, text=True).stdout:
        print(f"newcomer: not in the clone, since it is not committed:\n{dirty}", file=sys.stderr)


def remove_written():
    shutil.rmtree(WRITTEN[0], ignore_errors=True)
    WRITTEN[1].unlink(missing_ok=True)


def look_at_the_console():
    """A browser shows who is online and what they share."""
    script = ROOT / "tests/browser/look.mjs"
    url = "http://127.0.0.1:8080/"
    subprocess.run(["node", script, f"{url}#/users", "alice"], check=True, timeout=PATIENCE)
    subprocess.run(["node", script, f"{url}#/files", "hello.txt"], check=True, timeout=PATIENCE)


def walk(running):
    readme = blocks((ROOT / "README.md").read_text(encoding="utf-8"))
    assert readme and readme[0][0][0].startswith("cargo run"), "the README begins with another command"
    began = time.monotonic()
    for block in readme:
        for number, (text, expected) in enumerate(block):
            command = Command(text)
            command.expect(expected, BUILD_PATIENCE if text.startswith("cargo") else PATIENCE)
            if text.startswith("cargo"):
                print(f"newcomer: built and up after {time.monotonic() - began:.0f} s", flush=True)
            is_last = number == len(block) - 1
            if is_last and text.startswith(("cargo run", "target/release/lonja peer share")):
                running.append(command)
            else:
                command.has_ended()
    look_at_the_console()
    while running:
        running.pop().interrupt()

    again, expected = readme[0][0]
    command = Command(again)
    running.append(command)
    command.expect(expected, PATIENCE)
    if "Compiling" in command.said():
        command.fail("compiled something again with nothing changed")


def main():
    clone()
    remove_written()
    running = []
    try:
        walk(running)
    finally:
        while running:
            running.pop().interrupt()
        remove_written()
    print("newcomer: every command of the README does what the README shows")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Makes helm/lonja/README.md from the comments of values.yaml: `make helm-readme`."""

import pathlib
import re
import sys

CHART = pathlib.Path(__file__).parent / "lonja"
HEAD = """\
# The chart

<!-- Made from values.yaml by `make helm-readme`: change it there. -->

    helm install lonja helm/lonja

[docs/kubernetes.md](../../docs/kubernetes.md) says how to expose, scale, upgrade, back up and
watch it. A mistyped key is refused.

| key | default | what it is |
|---|---|---|
"""


def rows(text):
    """Each documented key with its whole path, its default, and its comment."""
    path, comment = [], None
    for line in text.splitlines():
        said = re.match(r"\s*# -- (.*)", line)
        key = re.match(r"( *)([A-Za-z]\w*):(.*)", line)
        if said:
            comment = said[1]
        elif key:
            depth = len(key[1]) // 2
            path = path[:depth] + [key[2]]
            if comment:
                yield ".".join(path), key[3].strip(), comment
                comment = None


def nested(text, key):
    """The lines below a key that has its default there, on one line."""
    below, name = [], key.split(".")[-1]
    lines = iter(text.splitlines())
    depth, path = None, []
    for line in lines:
        found = re.match(r"( *)([A-Za-z]\w*):(.*)", line)
        if not found:
            continue
        level = len(found[1]) // 2
        if depth is not None:
            if level <= depth:
                break
            below.append(f"{found[2]}: {found[3].strip()}")
        path = path[:level] + [found[2]]
        if depth is None and ".".join(path) == key and found[2] == name:
            depth = level
    return "{" + ", ".join(below) + "}" if below else ""


def readme():
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    table = "".join(
        f"| `{key}` | `{default or nested(text, key) or 'null'}` | {said} |\n" for key, default, said in rows(text)
    )
    return HEAD + table


if __name__ == "__main__":
    sys.stdout.write(readme())

#!/usr/bin/env python3
"""The shape of the tree. Usage: tree.py [ROOT]

The top level is exactly the agreed one; no mark of unfinished work; no path of the machine that somebody worked on.
"""

import re

import tree_files

TOP = {"CMakeLists.txt", "README.md", "LICENSE", "proto", "storaged", "client", "kernels", "deploy", "tests", "docs"}
REQUIRED = {"CMakeLists.txt", "README.md", "LICENSE"}
# Written in pieces, so that this file passes itself.
MARKS = re.compile(r"\b(" + "TO" + r"DO|FIX" + r"ME|HA" + r"CK|not imple" + r"mented)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.}/])/(?:wo" + r"rk/|tmp/b-|tmp/br" + r"ief|ro" + r"ot/|ho" + r"me/\w+/)")
BINARY = (".bin", ".png", ".jpg", ".gz", ".gguf", ".pem", ".der")


def check_top(root):
    names = tree_files.files(root)
    top = {name.split("/")[0] for name in names}
    for name in sorted(top):
        if name not in TOP and not name.startswith("."):
            yield f"{name}: does not belong to the top level"
    for name in sorted(REQUIRED - top):
        yield f"{name} is missing"


def check_text(root):
    for name in tree_files.files(root):
        if name.endswith(BINARY) or "/corpus/" in name:
            continue
        for number, line in enumerate(tree_files.text(root, name).splitlines(), 1):
            for pattern, what in ((MARKS, "a mark of unfinished work"), (MACHINE_PATHS, "a path of one machine")):
                match = pattern.search(line)
                if match:
                    yield f"{name}:{number}: '{match.group(0)}' is {what}"


def check(root):
    return [*check_top(root), *check_text(root)]


if __name__ == "__main__":
    tree_files.main(check)

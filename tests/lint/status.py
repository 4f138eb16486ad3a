#!/usr/bin/env python3
"""Makes docs/reference/status.md from the status list. Usage: status.py [--write] [ROOT]

Without --write it prints the page.
"""

import pathlib
import re
import sys

HEADER = "proto/base/longwave_status.h"
PAGE = "docs/reference/status.md"

ROW = re.compile(r"XX\((\w+),\s*(-?\d+),\s*\"([^\"]*)\"\)|/\*\s*(this [^*]*?)\s*\*/")

INTRODUCTION = """# Status codes

Generated from `proto/base/longwave_status.h` by `tests/lint/status.py`. Every fallible call returns one of these; the
same numbers travel on the wire. A code is never renumbered or used again. Errors are grouped by the largest object that
the failure spoiled, which tells what to throw away.
"""


def group_title(comment):
    scope, _, action = comment.partition(":")
    return f"## Errors of {scope.strip()}\n\nWhat to do: {action.strip()}.\n"


def make(root):
    lines = [INTRODUCTION, "## Not errors\n", "| code | name | meaning |", "|---:|---|---|"]
    source = (pathlib.Path(root) / HEADER).read_text()
    listed = source[source.index("#define LW_STATUS_MAP"):source.index("typedef enum lw_status")]
    for name, code, text, comment in ROW.findall(listed):
        if comment:
            lines += ["", group_title(comment), "| code | name | meaning |", "|---:|---|---|"]
        else:
            lines.append(f"| {code} | `LW_{name}` | {text} |")
    return "\n".join(lines) + "\n"


def main():
    arguments = [a for a in sys.argv[1:] if a != "--write"]
    root = pathlib.Path(arguments[0] if arguments else ".")
    page = make(root)
    if "--write" in sys.argv:
        (root / PAGE).parent.mkdir(parents=True, exist_ok=True)
        (root / PAGE).write_text(page)
    else:
        sys.stdout.write(page)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Names: prefixes of functions that other files can see, and words that mean one thing. Usage: names.py [ROOT]

Reads sources as text: a definition begins in the first column, its brace stands in the first column below it or at the end
of the line.
"""

import re

import tree_files

# Folder -> prefixes of what it may define with external linkage. The longest matching folder decides. Programs are their
# own namespace: nothing links with them.
PREFIXES = {
    "proto/": ("lw_",),
    "kernels/": ("lwk_",),
    "client/": ("lw_", "lwc_"),
    "client/cli/": ("lwc_", "main"),
    "client/examples/": None,
    "storaged/": ("lwd_", "main"),
    "tests/": None,
}

KEYWORDS = {"if", "for", "while", "switch", "return", "sizeof", "do", "else", "defined"}
DEFINITION = re.compile(
    r"^(?!static\b|typedef\b|#|/|\*|\}|\{)([A-Za-z_][A-Za-z0-9_ \t\*]*?[ \t\*])([A-Za-z_]\w*)\(([^;{}]*?)\)[ \t]*(?:\n)?\{",
    re.M)
# kernels/cuda/lang.cuh: what begins a function of kernels. All are static.
DEVICE = re.compile(r"\b(LWK_KERNEL\([^()]*\)|LWK_DEVICE|LWK_CALLED|LWK_HD)\s+")
COMMENT = re.compile(r"/\*.*?\*/", re.S)

# A cluster is a group of KV vectors; servers are a fleet.
SERVERS_AS_CLUSTER = re.compile(
    r"\b(?:server|storage|node|daemon|storaged|machine)s?[ -]cluster\b|\bcluster of (?:nodes|servers|daemons|machines|hosts)\b"
    r"|\bcluster (?:membership|members?|nodes?|view|epoch)\b", re.I)


def prefixes_of(name):
    matches = [folder for folder in PREFIXES if name.startswith(folder)]
    return PREFIXES[max(matches, key=len)] if matches else None


def definitions(source):
    """Names of the functions of external linkage that a C source defines."""
    for match in DEFINITION.finditer(DEVICE.sub("static ", COMMENT.sub("", source))):
        before, name = match.group(1), match.group(2)
        if name not in KEYWORDS and not re.search(r"\b(static|inline|return|else)\b", before):
            yield name


def check_functions(root):
    for name in tree_files.files(root, ".c", ".cu"):
        wanted = prefixes_of(name)
        if wanted is None:
            continue
        for function in definitions(tree_files.text(root, name)):
            if not function.startswith(wanted):
                yield f"{name}: function {function} must begin with {' or '.join(wanted)}, or be static"


def check_words(root):
    for name in tree_files.files(root, ".c", ".h", ".cu", ".md", ".def", ".proto", ".py", ".conf"):
        if name.startswith("tests/lint/"):
            continue
        for number, line in enumerate(tree_files.text(root, name).splitlines(), 1):
            match = SERVERS_AS_CLUSTER.search(line)
            if match:
                yield f"{name}:{number}: '{match.group(0)}': servers are a fleet, a cluster is a group of KV vectors"


def check(root):
    return list(check_functions(root)) + list(check_words(root))


if __name__ == "__main__":
    tree_files.main(check)

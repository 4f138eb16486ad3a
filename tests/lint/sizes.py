#!/usr/bin/env python3
"""Sizes: files and functions that have grown past a reader. Usage: sizes.py [ROOT]

A file of more than FILE_LINES is two nouns. A function of more than FUNCTION_LINES does not fit a screen; it may be longer where it
is one switch or one straight line, which is judged by its cases and branches. Reads C as text: a function's braces stand in the first
column.
"""

import re

import tree_files

FILE_LINES = 1000
FUNCTION_LINES = 60
SWITCH_LINES = 8     # a case in so many lines makes a switch
STRAIGHT_LINES = 10  # a branch in so many lines, at most, leaves a straight line

# (file, words of the line in front of the brace) -> why it is longer. A row that nothing needs is a violation.
LONGER = {
    ("tests/ops/matrix.c", "const lwk_backend_t *backend, uint64_t seed)"): "one row of the matrix: buffers, calls, comparison",
    ("tests/ops/matrix.c", "uint64_t seed)"): "one row of the matrix: buffers, calls, comparison",
    ("kernels/cuda/assign.cuh", "void assign_kernel(LWK_ARGS(kmeans_work_t) work, uint32_t n, uint32_t round)"):
        "one tile loop over fragments in registers",
    ("kernels/cuda/extend.cu",
     "template <int W, uint32_t DTYPE> LWK_KERNEL(256, 1) void extend_kernel(LWK_ARGS(extend_args_t) args)"):
        "one tile loop over fragments in registers",
    ("kernels/cuda/extend.cu", "template <int CHUNKS> LWK_KERNEL(128, 4) void extend_plain_kernel(LWK_ARGS(extend_args_t) args)"):
        "one row loop over registers",
    ("kernels/cuda/moments.cu", "void moments_kernel(LWK_ARGS(lwk_build_t) args, LWK_ARGS(moments_work_t) work)"):
        "one tile loop over fragments in registers",
    ("tests/unit/client/test_async.c", "static void test_one_graph_serves_rebinding_sealing_and_churn(void **state)"):
        "the story of one graph",
}

BRANCH = re.compile(r"^\s*(\} else|if|for|while|switch|else|do)\b")
CASE = re.compile(r"^\s*(case\b|default:)")


def functions(source):
    """(words in front of the brace, lines between the braces) of each function."""
    lines = source.split("\n")
    start = None
    for number, line in enumerate(lines):
        if line == "{":
            start = number
        elif line == "}" and start is not None:
            yield lines[start - 1].strip() if start else "", lines[start + 1:number]
            start = None


def is_switch(body):
    return sum(1 for line in body if CASE.match(line)) * SWITCH_LINES >= len(body)


def is_straight(body):
    return sum(1 for line in body if BRANCH.match(line)) * STRAIGHT_LINES <= len(body)


def check(root):
    found, used = [], set()
    for name in tree_files.files(root, *tree_files.SOURCE_ENDINGS, ".py", ".sh"):
        source = tree_files.text(root, name)
        count = source.count("\n")
        if count > FILE_LINES:
            found.append(f"{name}: {count} lines, at most {FILE_LINES}: which two nouns live there?")
        for words, body in functions(source):
            if len(body) <= FUNCTION_LINES or is_switch(body) or is_straight(body):
                continue
            if (name, words) in LONGER:
                used.add((name, words))
                continue
            found.append(f"{name}: {words} has {len(body)} lines, at most {FUNCTION_LINES}")
    for name, words in set(LONGER) - used:
        if (root / name).exists():
            found.append(f"tests/lint/sizes.py: the row of {name}: {words} is needed no more")
    return found


if __name__ == "__main__":
    tree_files.main(check)

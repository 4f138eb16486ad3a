#!/usr/bin/env python3
"""Documentation that can fail. Usage: docs.py [ROOT]

Every relative link of every Markdown file leads to a file; every folder that builds something has a README; every symbol
that the client library exports has a section in docs/reference/; docs/reference/status.md is what status.py makes.
"""

import pathlib
import posixpath
import re

import status
import tree_files

LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|\!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)
CODE = re.compile(r"`[^`\n]*`")
EXPORT = re.compile(r"^\s*(lw_\w+);", re.M)
# Folders that a README further up describes.
COVERED = ("tests/unit/",)


def check_links(root):
    for name in tree_files.files(root, ".md"):
        prose = CODE.sub("", FENCE.sub("", tree_files.text(root, name)))
        for plain, image in LINK.findall(prose):
            target = (plain or image).split("#")[0]
            if not target or re.match(r"[a-z]+:", target):
                continue
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
            if path.startswith("..") or not (pathlib.Path(root) / path).exists():
                yield f"{name}: link to {target}, which does not exist"


def check_readmes(root):
    names = tree_files.files(root)
    known = set(names)
    folders = {posixpath.dirname(n) for n in names if posixpath.basename(n) == "CMakeLists.txt"}
    folders |= {n.split("/")[0] for n in names if "/" in n and not n.startswith(".")}
    for folder in sorted(folders):
        readme = posixpath.join(folder, "README.md")
        if readme not in known and not f"{folder}/".startswith(COVERED):
            yield f"{readme} is missing"


def check_exports(root):
    script = pathlib.Path(root) / "client" / "longwave.map"
    if not script.is_file():
        return
    pages = [tree_files.text(root, n) for n in tree_files.files(root, ".md") if n.startswith("docs/reference/")]
    headings = "\n".join(line for page in pages for line in page.splitlines() if line.startswith("#"))
    for symbol in EXPORT.findall(script.read_text()):
        if not re.search(rf"\b{symbol}\b", headings):
            yield f"docs/reference/: no section for {symbol} of client/longwave.map"


def check_status_page(root):
    page = pathlib.Path(root) / status.PAGE
    if not (pathlib.Path(root) / status.HEADER).is_file():
        return
    if not page.is_file() or page.read_text() != status.make(root):
        yield f"{status.PAGE} is out of date: tests/lint/status.py --write"


def check(root):
    return [*check_links(root), *check_readmes(root), *check_exports(root), *check_status_page(root)]


if __name__ == "__main__":
    tree_files.main(check)

"""Which files the linters look at, and how they report. Standard library only."""

import os
import pathlib
import subprocess
import sys

SKIPPED = {".git", ".cache", "__pycache__"}
SOURCE_ENDINGS = (".c", ".h", ".cu", ".cuh", ".def", ".inc")


def tracked(root):
    """Paths that git tracks below root and that exist, or None where git cannot say."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-c", f"safe.directory={root}", "-C", str(root), "ls-files", "-z"]
    try:
        out = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    names = [name for name in out.decode().split("\0") if name]
    return sorted(name for name in names if (root / name).is_file())


def walked(root):
    """All files of a tree without git, build directories left out."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in SKIPPED and not f.startswith("build")]
        found += [(pathlib.Path(folder) / f).relative_to(root).as_posix() for f in files]
    return sorted(found)


def files(root, *endings):
    """Paths relative to root, with / as separator, that end in one of endings (all without endings)."""
    root = pathlib.Path(root)
    names = tracked(root)
    names = walked(root) if names is None else names
    return [n for n in names if not endings or n.endswith(endings)]


def text(root, name):
    return (pathlib.Path(root) / name).read_text(encoding="utf-8", errors="replace")


def main(check):
    """check(root) gives the violations as lines; none is success."""
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    found = check(root)
    for line in found:
        print(line)
    print(f"{pathlib.Path(sys.argv[0]).name}: {len(found)} violations")
    sys.exit(1 if found else 0)

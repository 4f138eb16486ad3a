#!/usr/bin/env python3
"""Who may include what. Usage: deps.py [ROOT]

Two tables: where a third-party header may be included, and which folders of ours a folder may include from. A header in
angle brackets that is in neither the C library's list nor the first table is a new dependency: give it a row.
"""

import fnmatch
import posixpath
import re

import tree_files

# Pattern of an angle header -> the files that may include it.
CONFINED = [
    (r"(ucp|ucs|uct)/.*", ["proto/fabric/fabric_ucx*"]),
    (r"grpc/.*", ["proto/rpc/rpc_grpc*"]),
    (r"uv\.h", ["storaged/io/io_uv.c"]),
    (r"numa(if)?\.h", ["storaged/mem/numa.c"]),
    (r"sqlite3\.h", ["storaged/catalogue/catalogue_sqlite*"]),
    (r"microhttpd\.h", ["storaged/ctl/http.c"]),
    (r"(cblas|f77blas|lapacke|openblas.*)\.h", ["client/examples/llama/*"]),
    (r"(xxhash|xxh3|xxh_x86dispatch)\.h", ["proto/wire/*"]),
    (r"cublas.*\.h", ["client/examples/llama/cuda/*"]),
    (r"(cuda|cooperative_groups|cub|nv|mma).*", ["kernels/cuda/*"]),
    (r"functional", ["kernels/cuda/emu/*"]),  # C++, in a library that only tests open
    (r"protobuf-c/.*", ["proto/pb/*", "proto/rpc/*"]),
    (r"liburing\.h", ["storaged/io/*"]),
    (r"(immintrin|x86intrin|emmintrin|cpuid)\.h", ["kernels/*", "client/examples/llama/*", "storaged/*", "proto/fabric/*",
                                                   "client/*"]),
    (r"cmocka\.h", ["tests/*"]),
    (r"hiredis/.*\.h", ["tests/bench/redis_bench.c"]),
]

# C and POSIX, and what Linux adds.
LIBC = re.compile(
    r"(assert|complex|ctype|errno|fenv|float|inttypes|iso646|limits|locale|math|setjmp|signal|stdalign|stdarg|stdatomic"
    r"|stdbool|stddef|stdint|stdio|stdlib|stdnoreturn|string|strings|tgmath|threads|time|uchar|wchar|wctype"
    r"|dirent|dlfcn|fcntl|ftw|getopt|glob|grp|ifaddrs|langinfo|libgen|link|malloc|netdb|poll|pthread|pwd|regex|sched"
    r"|semaphore|spawn|syslog|termios|unistd|execinfo|ucontext|features|endian|byteswap|elf|err|fnmatch)\.h"
    r"|(sys|linux|netinet|arpa|net|asm)/.*")

PROTO = ["proto/base/", "proto/wire/", "proto/fabric/", "proto/rpc/", "proto/pb/"]
KERNEL_TABLE = ["kernels/backend.h", "kernels/ops.h", "kernels/index_fmt.h"]
DAEMON = ["storaged/options.h", "storaged/options.def", "storaged/stats.h", "storaged/stats.def"]

# Folder -> prefixes it may include from, besides itself. The longest matching folder decides.
ALLOWED = {
    "proto/base/": [],
    "proto/wire/": ["proto/base/"],
    "proto/pb/": ["proto/base/", "proto/wire/"],
    "proto/fabric/": ["proto/base/"],
    "proto/rpc/": ["proto/base/", "proto/pb/"],
    "kernels/": ["proto/base/"],
    "kernels/ref/": ["proto/base/", "kernels/*.h"],
    "kernels/cpu/": ["proto/base/", "kernels/*.h", "kernels/ref/"],
    "kernels/cuda/": ["proto/base/", "kernels/*.h", "kernels/ref/"],
    "client/": PROTO + KERNEL_TABLE,
    "client/examples/llama/cuda/": ["proto/base/", "kernels/cuda/lang.cuh", "client/examples/llama/"],
    "storaged/": PROTO + KERNEL_TABLE,
    "storaged/shard/": ["proto/base/", "proto/wire/", "storaged/mem/extent.h"] + DAEMON,
    "storaged/mem/": ["proto/base/"] + DAEMON,
    "storaged/io/": ["proto/base/"] + DAEMON,
    "storaged/tier/": ["proto/base/", "proto/wire/", "storaged/io/", "storaged/mem/"] + DAEMON,
    "storaged/net/": ["proto/base/", "proto/wire/", "proto/fabric/", "storaged/shard/", "storaged/io/",
                      "storaged/mem/"] + DAEMON,
    "storaged/move/": ["proto/base/", "proto/wire/", "proto/fabric/", "storaged/shard/", "storaged/mem/",
                       "storaged/catalogue/catalogue.h"] + DAEMON,
    "storaged/etcd/": ["proto/base/", "proto/rpc/", "proto/pb/"],
    "storaged/catalogue/": ["proto/base/", "proto/wire/", "proto/rpc/", "proto/pb/", "storaged/etcd/"] + DAEMON,
    "storaged/member/": ["proto/base/", "proto/wire/", "proto/rpc/", "proto/pb/", "storaged/catalogue/"] + DAEMON,
    "storaged/ctl/": ["proto/base/", "proto/wire/", "proto/rpc/", "proto/pb/", "storaged/catalogue/", "storaged/etcd/"]
                     + DAEMON,
    "storaged/attend/": ["proto/base/", "proto/wire/"] + KERNEL_TABLE + DAEMON,
    "tests/": ["proto/", "kernels/", "client/", "storaged/", "tests/"],
    "deploy/": [],
}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:<([^>]+)>|"([^"]+)")', re.M)


def folder_of(name):
    matches = [folder for folder in ALLOWED if name.startswith(folder)]
    return max(matches, key=len) if matches else None


def check_angle(name, header):
    for pattern, places in CONFINED:
        if re.fullmatch(pattern, header):
            if any(fnmatch.fnmatch(name, place) for place in places):
                return None
            return f"{name}: <{header}> may be included only by {', '.join(places)}"
    if LIBC.fullmatch(header):
        return None
    return f"{name}: <{header}> is a dependency that deps.py does not know"


def resolve(name, header, known):
    """The file that a quoted include means, as the include paths of the build find it; None for a generated one."""
    beside = posixpath.normpath(posixpath.join(posixpath.dirname(name), header))
    for path in (beside, header, f"proto/{header}", f"proto/base/{header}", f"tests/{header}", f"client/include/{header}"):
        if path in known:
            return path
    return None


def permits(allowed, target):
    if "*" in allowed:
        return fnmatch.fnmatch(target, allowed) and target.count("/") == allowed.count("/")
    return target.startswith(allowed)


def check_quoted(name, header, known):
    target = resolve(name, header, known)
    folder = folder_of(name)
    if target is None:
        if header.startswith(("pb/", "proto/pb/")) or header.endswith(".pb-c.h"):
            target = "proto/pb/generated"
        elif header.startswith(("ucp/", "uv.h", "cuda", "grpc/", "sqlite3", "microhttpd", "numa.h", "xxhash")):
            return f'{name}: "{header}" is a third-party header: write it in angle brackets'
        else:
            return None
    if folder is None:
        return f"{name}: its folder has no row in deps.py"
    if target.startswith(folder):
        inner = folder_of(target)
        # A folder's own files, and for a folder without rows of its own below, all that lies under it.
        if inner == folder or (folder in ("storaged/", "client/", "tests/")) or folder == "kernels/":
            if folder == "kernels/" and target.startswith("kernels/cuda/"):
                return f"{name}: only kernels/cuda/ and tests may include {target}"
            return None
    if any(permits(prefix, target) for prefix in ALLOWED[folder]):
        return None
    return f"{name}: {folder} may not include {target}"


def check(root):
    found = []
    names = tree_files.files(root, *tree_files.SOURCE_ENDINGS)
    known = set(names)
    for name in names:
        for angle, quoted in INCLUDE.findall(tree_files.text(root, name)):
            line = check_angle(name, angle) if angle else check_quoted(name, quoted, known)
            if line:
                found.append(line)
    return found


if __name__ == "__main__":
    tree_files.main(check)

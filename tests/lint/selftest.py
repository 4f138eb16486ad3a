#!/usr/bin/env python3
"""Plants violations in a tree of its own and expects each linter to find them, and nothing in the clean tree."""

import pathlib
import tempfile
import unittest

import deps
import docs
import names
import sizes
import status
import tree

STATUS_HEADER = """#define LW_STATUS_MAP(XX) \\
    XX(OK, 0, "done") \\
    /* this call: fix it */ \\
    XX(ERR_INVALID, -1, "invalid")
typedef enum lw_status { A } lw_status_t;
"""

CLEAN = {
    "CMakeLists.txt": "project(x)\n",
    "README.md": "[proto](proto/README.md) [top](#top) [out](https://example.org/x) `[code](nowhere)`\n",
    "LICENSE": "words\n",
    ".gitignore": "/build*/\n",
    "proto/README.md": "x\n",
    "proto/base/CMakeLists.txt": "x\n",
    "proto/base/README.md": "x\n",
    "proto/base/log.h": "#include <stdint.h>\n",
    "proto/base/longwave_status.h": STATUS_HEADER,
    "proto/base/log.c": '#include "base/log.h"\n\nstatic int twice(void)\n{\n    return 1;\n}\n\nint lw_log(int a,\n'
                        "           int b)\n{\n    return twice();\n}\n",
    "proto/wire/msg.h": '#include "base/log.h"\n',
    "proto/wire/checksum.c": "#include <xxhash.h>\n",
    "proto/fabric/fabric_ucx.c": '#include <ucp/api/ucp.h>\n#include "base/log.h"\n',
    "kernels/README.md": "x\n",
    "kernels/ops.h": "\n",
    "kernels/host.h": "\n",
    "kernels/ref/score.c": '#include "kernels/ops.h"\n',
    "kernels/cuda/common.h": "#include <cuda_runtime.h>\n",
    "client/README.md": "x\n",
    "client/longwave.map": "LONGWAVE_1 {\n  global:\n    lw_open;\n  local: *;\n};\n",
    "client/ctx.h": '#include "kernels/ops.h"\n#include "wire/msg.h"\n',
    "client/ctx.c": '#include "client/ctx.h"\n\nlw_t *lwc_ctx(void)\n{\n    return 0;\n}\n',
    "storaged/README.md": "Clusters of keys live in segments.\n",
    "storaged/shard/shard.h": '#include "wire/msg.h"\n',
    "storaged/net/am.c": '#include "storaged/shard/shard.h"\n',
    "storaged/main.c": "int main(void)\n{\n    return 0;\n}\n",
    "tests/README.md": "x\n",
    "tests/unit/proto/CMakeLists.txt": "x\n",
    "tests/unit/proto/test_log.c": '#include <cmocka.h>\n#include "base/log.h"\n\nint main(void)\n{\n    return 0;\n}\n',
    "deploy/README.md": "x\n",
    "docs/README.md": "[reference](reference/status.md)\n",
    "docs/reference/api.md": "## `lw_open`\n",
}

# Linter, path, contents, words of the line that must come.
PLANTED = [
    (deps, "client/bad.c", "#include <ucp/api/ucp.h>\n", "may be included only by proto/fabric"),
    (deps, "client/bad.c", "#include <grpc/grpc.h>\n", "may be included only by proto/rpc"),
    (deps, "storaged/bad.c", "#include <uv.h>\n", "may be included only by storaged/io/io_uv.c"),
    (deps, "storaged/bad.c", "#include <numa.h>\n", "may be included only by storaged/mem/numa.c"),
    (deps, "storaged/bad.c", "#include <sqlite3.h>\n", "may be included only by storaged/catalogue"),
    (deps, "storaged/bad.c", "#include <microhttpd.h>\n", "may be included only by storaged/ctl/http.c"),
    (deps, "client/bad.c", "#include <cblas.h>\n", "may be included only by client/examples/llama"),
    (deps, "storaged/bad.c", "# include <xxhash.h>\n", "may be included only by proto/wire"),
    (deps, "storaged/bad.c", "#include <cuda_runtime.h>\n", "may be included only by kernels/cuda"),
    (deps, "client/bad.c", '#include "kernels/cuda/common.h"\n', "client/ may not include kernels/cuda"),
    (deps, "client/bad.c", "#include <boost/any.hpp>\n", "does not know"),
    (deps, "client/bad.c", '#include "uv.h"\n', "in angle brackets"),
    (deps, "client/bad.c", '#include "storaged/shard/shard.h"\n', "client/ may not include storaged"),
    (deps, "client/bad.c", '#include "kernels/host.h"\n', "client/ may not include kernels/host.h"),
    (deps, "storaged/bad.c", '#include "client/ctx.h"\n', "storaged/ may not include client"),
    (deps, "storaged/bad.c", '#include "kernels/cuda/common.h"\n', "storaged/ may not include kernels/cuda"),
    (deps, "storaged/shard/bad.c", '#include "storaged/net/am.c"\n', "storaged/shard/ may not include storaged/net"),
    (deps, "kernels/bad.c", '#include "kernels/cuda/common.h"\n', "only kernels/cuda/ and tests"),
    (deps, "kernels/ref/bad.c", '#include "client/ctx.h"\n', "kernels/ref/ may not include client"),
    (deps, "proto/fabric/bad.c", '#include "wire/msg.h"\n', "proto/fabric/ may not include proto/wire"),
    (deps, "proto/base/bad.c", '#include "wire/msg.h"\n', "proto/base/ may not include proto/wire"),
    (deps, "proto/wire/bad.c", '#include "tests/unit/proto/test_log.c"\n', "proto/wire/ may not include tests"),
    (deps, "extra/bad.c", '#include "base/log.h"\n', "no row in deps.py"),
    (names, "proto/base/bad.c", "int twice(void)\n{\n    return 1;\n}\n", "twice must begin with lw_"),
    (names, "proto/base/bad.c", "uint64_t *twice(int a,\n    int b)\n{\n}\n", "twice must begin with lw_"),
    (names, "storaged/bad.c", "void lwc_x(void) { return; }\n", "lwc_x must begin with lwd_"),
    (names, "kernels/ref/bad.c", "const char *lw_x(void)\n{\n}\n", "lw_x must begin with lwk_"),
    (names, "client/bad.c", "struct lw_op *other(struct lw_op *op)\n{\n}\n", "other must begin with lw_ or lwc_"),
    (names, "docs/bad.md", "Start the storage cluster.\n", "servers are a fleet"),
    (names, "client/bad.h", "/* asks the cluster nodes */\n", "servers are a fleet"),
    (docs, "docs/bad.md", "See [this](missing.md).\n", "link to missing.md"),
    (docs, "docs/bad.md", "![picture](missing.png)\n", "link to missing.png"),
    (docs, "docs/bad.md", "[up](../../outside.md)\n", "link to ../../outside.md"),
    (docs, "proto/wire/CMakeLists.txt", "x\n", "proto/wire/README.md is missing"),
    (docs, "client/longwave.map", "{ global:\n lw_open;\n lw_close;\n}\n", "no section for lw_close"),
    (docs, "docs/reference/status.md", "# edited by hand\n", "status.md is out of date"),
    (sizes, "client/bad.c", "int lwc_x;\n" * 1001, "which two nouns"),
    (sizes, "client/bad.c", "void lwc_x(void)\n{\n" + "    if (x)\n        y();\n" * 31 + "}\n", "lwc_x(void) has 62 lines"),
    (tree, "notes/x.txt", "x\n", "notes: does not belong to the top level"),
    (tree, "Makefile", "x\n", "Makefile: does not belong to the top level"),
    (tree, "client/bad.c", "/* TO" + "DO: later */\n", "mark of unfinished work"),
    (tree, "client/bad.c", "/* FIX" + "ME */\n", "mark of unfinished work"),
    (tree, "docs/bad.md", "cd /wo" + "rk/here\n", "path of one machine"),
    (tree, "docs/bad.md", "in /tmp/" + "b-name/x\n", "path of one machine"),
]


def write(root, tree_of_files):
    for name, contents in tree_of_files.items():
        path = pathlib.Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents)


class Lints(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.directory.name)
        self.addCleanup(self.directory.cleanup)
        write(self.root, CLEAN)
        write(self.root, {status.PAGE: status.make(self.root)})

    def test_the_clean_tree_has_no_violation(self):
        for linter in (deps, names, docs, sizes, tree):
            self.assertEqual(linter.check(self.root), [])

    def test_a_missing_license_is_found(self):
        (self.root / "LICENSE").unlink()
        self.assertIn("LICENSE is missing", tree.check(self.root))

    def test_a_switch_and_a_straight_line_may_be_long(self):
        switch = "void lwc_x(void)\n{\n" + "    case 1:\n        if (x)\n            y();\n" * 40 + "}\n"
        straight = "void lwc_y(void)\n{\n" + "    y();\n" * 90 + "}\n"
        write(self.root, {"client/long.c": switch + straight})
        self.assertEqual(sizes.check(self.root), [])

    def test_the_status_page_has_every_row(self):
        page = status.make(self.root)
        self.assertIn("| -1 | `LW_ERR_INVALID` | invalid |", page)
        self.assertIn("## Errors of this call\n\nWhat to do: fix it.", page)

    def test_every_planted_violation_is_found_and_nothing_else(self):
        for linter, name, contents, words in PLANTED:
            with self.subTest(linter=linter.__name__, name=name, contents=contents):
                path = self.root / name
                before = path.read_text() if path.exists() else None
                write(self.root, {name: contents})
                found = linter.check(self.root)
                self.assertEqual(len(found), 1, found)
                self.assertIn(words, found[0])
                if before is None:
                    path.unlink()
                else:
                    path.write_text(before)


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""Writes unicode_ranges.inc from Python's own Unicode tables: make_unicode_ranges.py > unicode_ranges.inc"""
import sys
import unicodedata

SPACES = {*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}


def class_of(code_point):
    if code_point in SPACES:
        return "S"
    category = unicodedata.category(chr(code_point))[0]
    return category if category in "LN" else None


def ranges():
    first, current = 0, None
    for code_point in range(sys.maxunicode + 2):
        found = class_of(code_point) if code_point <= sys.maxunicode else None
        if found != current:
            if current:
                yield first, code_point - 1, current
            first, current = code_point, found


print(f"/* Unicode {unicodedata.unidata_version}: ranges of \\p{{L}}, \\p{{N}} and White_Space. "
      "Made by make_unicode_ranges.py. */")
line = ""
for first, last, kind in ranges():
    item = f"{{{first:#x}, {last:#x}, {kind}}},"
    if len(line) + 1 + len(item) > 108:
        print(line)
        line = ""
    line = f"{line} {item}".strip()
print(line)

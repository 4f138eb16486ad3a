#!/bin/sh
# Prints the path of the demo's document as its only line on stdout. It is the text of the GPL, version 3: 7,639 tokens of
# the demo's model, part of every Debian and Ubuntu (package base-files), the same bytes in all of them, so that figures of
# different machines can be compared. The model does not know it by heart: client/examples/llama/README.md has the figures.
set -eu

document=/usr/share/common-licenses/GPL-3
sha256=3972dc9744f6499f0f9b2dbf76696f2ae7ad8af9b23dde66d6af86c9dfb36986

if [ ! -r "$document" ]; then
    echo "fetch_document: there is no $document (Debian, Ubuntu: apt-get install --reinstall base-files);" \
        "'longwave demo --document FILE' takes any text of at least 7,000 tokens" >&2
    exit 1
fi
if [ "$(sha256sum "$document" | cut -d' ' -f1)" != "$sha256" ]; then
    echo "fetch_document: $document is another edition here: figures will differ a little from the documented ones" >&2
fi
echo "$document"

#!/usr/bin/env bash
# The documentation as a site, build/docs/site/index.html: links that lead nowhere and names that do not
# exist end the build. MkDocs reads the sources without importing them, so its environment, .venv-docs/,
# holds neither torch nor transformers. Options go to `mkdocs build`.
# `bash scripts/docs.sh serve` shows the site at http://127.0.0.1:8000 and follows changes; the pages can be
# read as files too, only the search needs a server.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
cd "$root"

oldest_python=3.11 # the pinned packages need it
venv=$root/.venv-docs
pins=scripts/docs_pins.txt
ensure_venv "$venv" "$pins" --no-deps -r "$pins" -e .

export NO_MKDOCS_2_WARNING=1 # the theme's, about a version of MkDocs that is not out; these are pinned
if [[ ${1-} == serve ]]; then
  exec "$venv/bin/mkdocs" "$@"
fi
"$venv/bin/mkdocs" build --strict "$@"
echo "$root/build/docs/site/index.html"

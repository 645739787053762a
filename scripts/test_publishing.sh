#!/usr/bin/env bash
# What a release is made of, by the tools that publish it: sdist and wheel by `python -m build`,
# checked by twine, and the Hub kernel loaded by the kernels package, offline. These tools bring many
# packages, so they have an environment of their own, .venv-publishing/. Options go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
cd "$root"

oldest_python=3.11 # the pinned packages need it
venv=$root/.venv-publishing
ensure_venv "$venv" scripts/publishing_pins.txt -e . build hypothesis kernels numpy pytest twine

HF_HUB_OFFLINE=1 exec "$venv/bin/pytest" tests/publishing "$@"

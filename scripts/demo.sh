#!/usr/bin/env bash
# Prunes the embedded sample clip through the embedded model and leaves demo-report/report.html in
# the repository. Options go to `prunevid run`:
#   bash scripts/demo.sh --video FILE --question TEXT
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

exec "$venv/bin/prunevid" run --out "$root/demo-report" "$@"

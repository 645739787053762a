#!/usr/bin/env bash
# `prunevid app` in a real browser: uploads, questions, sliders, errors, two users at once. Gradio and
# Playwright bring many packages, so they have an environment of their own, .venv-app/. The browser is
# the system's: chromium in PATH. Options go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
cd "$root"

if ! command -v chromium >/dev/null; then
  echo "error: no chromium in PATH, which these tests drive. On Debian and Ubuntu it comes with the" \
    "package chromium." >&2
  exit 1
fi

oldest_python=3.11 # the pinned packages need it
venv=$root/.venv-app
ensure_venv "$venv" scripts/app_pins.txt -e '.[app]' hypothesis playwright pytest

HF_HUB_OFFLINE=1 exec "$venv/bin/pytest" tests/app "$@"

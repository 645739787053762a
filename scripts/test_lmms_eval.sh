#!/usr/bin/env bash
# The lmms-eval plugin inside the real lmms-eval, offline, on tiny models. lmms-eval brings many
# packages and is at odds with constraints.txt, so it has an environment of its own,
# .venv-lmms-eval/. Options go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
cd "$root"

oldest_python=3.11 # the pinned packages need it
venv=$root/.venv-lmms-eval
ensure_venv "$venv" scripts/lmms_eval_pins.txt -e '.[lmms-eval]' hypothesis pytest

HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 exec "$venv/bin/pytest" tests/lmms_eval "$@"

#!/usr/bin/env bash
# Every check of the project: lint, format, the suite (types and the installed wheel are part of
# it), and the model tests once more on the oldest transformers that is supported, each with one of
# its cases. Options go to pytest: bash scripts/test.sh -k layering; --full runs every case there is,
# on both versions.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"

oldest=5.17.0
overlay=$venv/transformers-$oldest

# It runs on the pinned versions of everything else, so it is one folder that goes before the
# environment's own copy. Renamed into place when complete.
if [[ ! -d $overlay ]]; then
  echo "Installing transformers $oldest into $overlay ..." >&2
  rm -rf "$overlay.part"
  "$python" -m pip install --no-deps --target "$overlay.part" "transformers==$oldest" >&2
  mv "$overlay.part" "$overlay"
fi

step() { printf '\n== %s\n' "$*"; }

# Runs pytest on two processes; tests/project/test_environment.py fails on any other transformers than $1.
# Files keep their order, in which short ones come last: ordered by their numbers of tests, the few
# tests that take longest would be last, and one process would wait for the other.
suite() {
  PRUNEVID_EXPECT_TRANSFORMERS=$1 "$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "${@:2}"
}

step "ruff"
"$python" -m ruff check .
"$python" -m ruff format --check .

current=$("$python" -c 'from importlib.metadata import version; print(version("transformers"))')
step "pytest, transformers $current"
suite "$current" "$@"

step "pytest, model tests, transformers $oldest"
status=0
PYTHONPATH=$overlay suite "$oldest" -m "not one_version" --one-case \
  tests/project/test_environment.py tests/adapters tests/benchmarks/cli "$@" || status=$?
# 5: the caller's options select none of these tests. Without options that is a failure.
if [[ $status -ne 0 && ! ($status -eq 5 && $# -gt 0) ]]; then
  exit "$status"
fi

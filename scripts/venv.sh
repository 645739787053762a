# Sourced: ensure_venv makes a virtual environment in the repository and fills it with pinned
# packages. The stamp is written last, so a run that was interrupted is done again, and a finished
# one is recognised in a moment.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export PIP_DISABLE_PIP_VERSION_CHECK=1
# Packages of the caller's own, outside the environment, are not the pinned ones.
export PYTHONNOUSERSITE=1
unset PYTHONPATH PYTHONHOME
# A script whose pins need a later one says so after its `source`.
oldest_python=3.10

# Prints the first Python in PATH that is $oldest_python to 3.13 and can make a virtual environment.
find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" - "$oldest_python" 2>/dev/null <<'PY'
import sys
import ensurepip, venv
oldest = tuple(map(int, sys.argv[1].split(".")))
sys.exit(not oldest <= sys.version_info[:2] <= (3, 13))
PY
    then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python $oldest_python to 3.13 with the modules venv and ensurepip in PATH;" \
    "python3 is $(python3 --version 2>&1 || true)." \
    "On Debian and Ubuntu the modules come with the package python3-venv." >&2
  return 1
}

# What an installation depends on; an editable install names the folder too.
fingerprint() {
  (cd "$root" && pwd && echo "$@" && cat "$1" pyproject.toml setup.py scripts/venv.sh) | sha256sum
}

install_venv() (
  venv=$1 pins=$2
  cd "$root"
  if [[ -e $venv/.prunevid-unfinished ]] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1
  then
    found=$(find_python)
    "$found" -m venv --clear "$venv"
  fi
  touch "$venv/.prunevid-unfinished"
  rm -f "$venv/.prunevid-installed"
  # setuptools first: the project is built with the pinned one instead of a downloaded newest one.
  "$venv/bin/python" -m pip install -c "$pins" setuptools
  "$venv/bin/python" -m pip install -c "$pins" --no-build-isolation "${@:3}"
  fingerprint "${@:2}" >"$venv/.prunevid-installed"
  rm "$venv/.prunevid-unfinished"
)

# ensure_venv FOLDER PINS WHAT...: FOLDER is an environment where pip has installed WHAT in the
# versions of PINS, a file of the repository.
ensure_venv() {
  if [[ "$(fingerprint "${@:2}")" != "$(cat "$1/.prunevid-installed" 2>/dev/null)" ]]; then
    echo "Installing into $1 (the first time takes some minutes) ..." >&2
    install_venv "$@" >&2
  fi
}

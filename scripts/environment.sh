# Sourced by demo.sh and test.sh. Leaves .venv/ in the repository with the versions of
# constraints.txt and an editable install of the project. The stamp is written last, so a run that
# was interrupted is done again, and a finished one is recognised in a moment.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export PIP_DISABLE_PIP_VERSION_CHECK=1
# Packages of the caller's own, outside .venv, are not the pinned ones.
export PYTHONNOUSERSITE=1
unset PYTHONPATH PYTHONHOME

venv=$root/.venv
python=$venv/bin/python
stamp=$venv/.prunevid-installed
unfinished=$venv/.prunevid-unfinished

# Prints the first Python in PATH that is 3.10 to 3.13 and can make a virtual environment.
find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" - 2>/dev/null <<'PY'
import sys
import ensurepip, venv
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PY
    then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python 3.10 to 3.13 with the modules venv and ensurepip in PATH;" \
    "python3 is $(python3 --version 2>&1 || true)." \
    "On Debian and Ubuntu the modules come with the package python3-venv." >&2
  return 1
}

# What the installation depends on; an editable install names the folder too.
fingerprint() {
  (cd "$root" && pwd && cat constraints.txt pyproject.toml setup.py scripts/environment.sh) | sha256sum
}

install_environment() (
  cd "$root"
  if [[ -e $unfinished ]] || ! "$python" -m pip --version >/dev/null 2>&1; then
    found=$(find_python)
    "$found" -m venv --clear "$venv"
  fi
  touch "$unfinished"
  rm -f "$stamp"
  # setuptools first: the project is built with the pinned one instead of a downloaded newest one.
  "$python" -m pip install -c constraints.txt setuptools
  "$python" -m pip install -c constraints.txt --no-build-isolation -e '.[dev]'
  fingerprint >"$stamp"
  rm "$unfinished"
)

if [[ "$(fingerprint)" != "$(cat "$stamp" 2>/dev/null)" ]]; then
  echo "Installing into $venv (the first time takes some minutes) ..." >&2
  install_environment >&2
fi

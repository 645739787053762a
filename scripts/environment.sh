# Sourced by demo.sh and test.sh. Leaves .venv/ in the repository with the versions of
# constraints.txt and an editable install of the project.

source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

venv=$root/.venv
python=$venv/bin/python

ensure_venv "$venv" constraints.txt -e '.[dev]'

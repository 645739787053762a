#!/usr/bin/env bash
# The vLLM plugin in a real engine, vLLM's CPU build, on tiny random checkpoints: offline, as a server
# on the loopback interface, and with two workers. vLLM pins its own torch and transformers, so it has
# an environment of its own, .venv-vllm/. Options go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
cd "$root"

oldest_python=3.11 # the pinned packages need it
venv=$root/.venv-vllm
pins=scripts/vllm_pins.txt
ensure_venv "$venv" "$pins" --no-deps -r "$pins" -e .

# Beside a CPU build of torch, PyPI's torchvision cannot load its compiled operators, and then cannot
# be imported, because its Python part describes two of them that nobody has declared. vLLM's video
# processors need the import and none of the operators, so the declarations are enough.
"$venv/bin/python" -c 'import torchvision' 2>/dev/null || "$venv/bin/python" - <<'PY'
from importlib.metadata import files
from pathlib import Path

(found,) = [file for file in files("torchvision") if file.name == "_meta_registrations.py"]
registrations = Path(found.locate())
schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
lines = ["import torch"]
lines += [f'torch.library.define("torchvision::{name}", "{schema}")' for name in ("nms", "qnms")]
registrations.write_text("\n".join([*lines, registrations.read_text()]))
PY

exec "$venv/bin/python" -m pytest -n 2 --dist loadfile tests/vllm_plugin "$@"

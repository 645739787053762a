"""The process that traces: a request as JSON on stdin, the launches as JSON in the last line."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict

import torch

from prunevid_kernels.kernels import _device

from ..cases import DTYPES, MODELS, REDUCED, Case
from .trace import trace
from .workloads import work_of


def main() -> None:
    request = json.load(sys.stdin)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", RuntimeWarning)  # zeros are divided by zeros
    assert request["dtype"] in DTYPES
    model = (MODELS | {REDUCED.name: REDUCED})[request["model"]]
    case = Case(model, request["frames"], request["dtype"])
    table = _device.config_table()
    for kernel, config in request["configs"].items():
        table[kernel][request["architecture"]] = config
    found = {}
    for name in request["works"]:
        work = work_of(case, name)
        launches = trace(work, request["architecture"], request["sample"], request["kernels"])
        found[name] = [asdict(launch) for launch in launches]
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""The table of families: light to import, whole, and the same facts whoever asks."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from types import SimpleNamespace

import pytest

from prunevid_kernels.adapters.engine.interface import ModelAdapter
from prunevid_kernels.adapters.families import FAMILIES, adapter_of, family_of
from prunevid_kernels.adapters.families.causal_lm import CausalLMAdapter
from prunevid_kernels.adapters.families.record import Later

pytestmark = pytest.mark.one_version

NEW_MODULES = """
import sys
import prunevid_kernels
before = set(sys.modules)
import {module}
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}))
"""


@pytest.mark.parametrize("module", ["adapters", "adapters.families"])
def test_importing_it_loads_nothing_but_itself(module):
    source = NEW_MODULES.format(module=f"prunevid_kernels.{module}")
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert loaded <= {"prunevid_kernels", *sys.stdlib_module_names}


def test_names_of_the_door_are_imported_when_they_are_used():
    import prunevid_kernels.adapters as door

    assert all(getattr(door, name).__name__ == name for name in door.__all__)
    assert set(door.__all__) <= set(dir(door))
    with pytest.raises(AttributeError, match="has no attribute 'pruen'"):
        _ = door.pruen


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_everything_that_a_record_names_is_there(family):
    named = {f.name: getattr(family, f.name) for f in fields(family)}
    targets = {name: value for name, value in named.items() if isinstance(value, Later)}
    assert {"adapter", "read_config", "check", "load", "processor", "random_model"} <= set(targets)
    assert all(callable(target.resolve()) for target in targets.values())
    assert isinstance(family.adapter(), ModelAdapter)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_model_is_found_by_its_type(family):
    for model_type in family.model_types:
        model = SimpleNamespace(config=SimpleNamespace(model_type=model_type))
        assert family_of(model_type) is family
        assert type(adapter_of(model)) is type(family.adapter())


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_a_text_decoder_has_an_adapter_and_no_family(model_type):
    model = SimpleNamespace(config=SimpleNamespace(model_type=model_type))
    assert isinstance(adapter_of(model), CausalLMAdapter)
    with pytest.raises(ValueError, match=f"model_type must be one of .*, got '{model_type}'"):
        family_of(model_type)


def test_a_model_of_another_kind_is_refused():
    model = SimpleNamespace(config=SimpleNamespace(model_type="gpt"))
    known = ["llama", "qwen2", *(name for f in FAMILIES.values() for name in f.model_types)]
    message = f"({', '.join(sorted(known))}), got 'gpt' (SimpleNamespace)"
    with pytest.raises(ValueError, match=re.escape(message)):
        adapter_of(model)


@pytest.mark.parametrize("task", ["videomme", "egoschema_subset", "mvbenchmark", "activitynetqa"])
def test_other_tasks_have_the_models_own_rule(task):
    for family in FAMILIES.values():
        assert family.sampling_of(task) == family.sampling
        assert family.frames_of(task) is None

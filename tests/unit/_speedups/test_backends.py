from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import pytest

from propfan import _speedups

PROGRAM = """
import json
from propfan import _speedups
from propfan._speedups import quantities, structs
print(json.dumps([_speedups.backends(), quantities.canonical("1000m"), structs.__file__]))
"""


def test_environment_variable_picks_the_pure_twins() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PROPFAN_PURE": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    backends, printed, path = json.loads(done.stdout)
    assert set(backends) == set(_speedups.twins())
    assert set(backends.values()) == {"pure"}
    assert printed == "1"
    assert path.endswith("structs_pure.py")


def test_every_twin_has_a_definition_that_can_be_pickled_from() -> None:
    for name in _speedups.twins():
        definition = _speedups.pure_twin(name)
        assert definition is _speedups.pure_twin(name)
        assert str(definition.__file__).endswith(".py")
    error = _speedups.pure_twin("quantities").QuantityError("x")
    assert type(pickle.loads(pickle.dumps(error))) is type(error)


def test_module_without_definition_is_refused() -> None:
    with pytest.raises(FileNotFoundError):
        _speedups.pure_twin("nothing")

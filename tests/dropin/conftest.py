"""What the tests of this folder share."""

import pytest

from mae_fast import ops
from mae_fast.dropin import hf


@pytest.fixture(autouse=True)
def restored():
    yield
    hf.restore()


@pytest.fixture
def calls(monkeypatch):
    """How often each of our ops was called."""
    from tests.dropin.hf_models import OURS  # needs transformers, which other tests of this folder do not

    count = dict.fromkeys(OURS, 0)

    def counting(name, op):
        def call(*args):
            count[name] += 1
            return op(*args)

        return call

    for name in count.keys() - {"attention"}:
        monkeypatch.setattr(ops, name, counting(name, getattr(ops, name)))
    monkeypatch.setitem(hf.ATTENTION, "auto", counting("attention", hf.ATTENTION["auto"]))
    return count

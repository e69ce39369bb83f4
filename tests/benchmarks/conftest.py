"""What the tests of this folder share."""

import pytest

from mae_fast import config
from tests.benchmarks.clone_of_official import CLONE
from tests.benchmarks.small import TINY


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    """The smallest preset is smaller yet: two blocks in place of five."""
    monkeypatch.setitem(config.SIZES, "tiny", TINY)


@pytest.fixture
def clone(tmp_path):
    for name, text in CLONE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path

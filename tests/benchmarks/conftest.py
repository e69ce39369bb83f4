"""What the tests of this folder share."""

import pytest

from tests.benchmarks.clone_of_official import CLONE


@pytest.fixture
def clone(tmp_path):
    for name, text in CLONE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path

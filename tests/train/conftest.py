"""What the tests of training share: pictures, and one run from start to end."""

import pytest

from benchmarks.faults.scene import write_images
from mae_fast.cli import show_messages
from tests.train.runs import run


@pytest.fixture(autouse=True)
def messages():
    show_messages()


@pytest.fixture(scope="session", autouse=True)
def a_cpu_without_bf16():
    """On every machine the same runs: dtype auto is fp32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mae_fast.train.machine.cpu_multiplies_bf16", lambda: False)
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Twenty small pictures with something to learn: smooth colours."""
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder / "train" / "one")
    return folder


@pytest.fixture(scope="session")
def whole_run(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return out, run(photos, out)

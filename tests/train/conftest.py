"""What the tests of training share: pictures, and one run from start to end."""

import numpy as np
import pytest
from PIL import Image

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
    folder = tmp_path_factory.mktemp("photos") / "train" / "one"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(20):
        corners = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8))
        corners.resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{i:02}.jpg")
    return folder.parent.parent


@pytest.fixture(scope="session")
def whole_run(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return out, run(photos, out)

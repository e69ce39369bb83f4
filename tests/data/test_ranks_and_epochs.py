"""Each picture once per epoch over all ranks, whatever the counts; less than one global batch is dropped."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mae_fast.data import How, make_loader, open_source, pack

COUNT = 23


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pictures of one colour, which tells which it is."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "files").mkdir()
    for number in range(COUNT):
        Image.new("RGB", (20, 20), (10 * number, 0, 0)).save(folder / "files" / f"{number:02d}.png")
    pack(folder / "files", folder / "shards")
    pack(folder / "files", folder / "decoded", how=How(decoded=True))
    return folder


@pytest.mark.parametrize("kind", ["files", "shards", "decoded"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 7])
def test_each_picture_once_over_the_ranks(folders, kind, world_size, batch_size):
    loaders = [
        make_loader(open_source(folders / kind), batch_size, 16, seed=5, rank=rank, world_size=world_size,
                    backend="pillow", num_workers=0)
        for rank in range(world_size)
    ]  # fmt: skip
    together, orders = batch_size * world_size, []
    for epoch in range(3):
        ranks = [[imgs[:, 0, 0, 0].numpy() // 10 for imgs, _ in loader.epoch(epoch)] for loader in loaders]
        assert len({len(batches) for batches in ranks}) == 1
        seen = Counter(np.concatenate([batch for batches in ranks for batch in batches]).tolist())
        assert max(seen.values()) == 1 and set(seen) <= set(range(COUNT)), seen
        assert COUNT - together < len(seen) <= COUNT and sum(seen.values()) % together == 0
        orders.append([batch.tolist() for batches in ranks for batch in batches])
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("kind", ["shards", "decoded"])
def test_any_batch_of_an_epoch_comes_again_alone(folders, kind, backend):
    make = lambda: make_loader(  # noqa: E731
        open_source(folders / kind), 4, 16, seed=5, rank=1, world_size=2, backend=backend, augment="strong",
        num_workers=1 if backend == "dali" else 0,
    )  # fmt: skip
    whole = [imgs.numpy().copy() for imgs, _ in make().epoch(1)]
    for start in range(len(whole)):
        again = [imgs.numpy().copy() for imgs, _ in make().epoch(1, start)]
        assert np.array_equal(np.stack(again), np.stack(whole[start:]))

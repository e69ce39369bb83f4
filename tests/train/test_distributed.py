"""The process group: ranks that leave it do not wait for each other, or for themselves, and they compile together."""

import os
import subprocess
import sys

import pytest

JOIN_AND_LEAVE = """
import os, sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from mae_fast import distributed

torch.set_num_threads(1)

def once(i):
    url = f"file://{sys.argv[1]}/{i}"
    dist.init_process_group("gloo", init_method=url, rank=int(os.environ["RANK"]), world_size=2)
    model = DistributedDataParallel(torch.nn.Linear(2, 2))
    model(torch.randn(1, 2)).sum().backward()
    distributed.gather({"a": torch.zeros(3)})
    distributed.barrier()
    distributed.shutdown()  # before the model is gone

for i in range(150):
    once(i)
"""


def test_the_model_may_outlive_the_process_group(tmp_path):
    """Gloo's thread and the destructor of DistributedDataParallel once waited for each other, one time in twenty."""
    command = [sys.executable, "-c", JOIN_AND_LEAVE, str(tmp_path)]
    ranks = [subprocess.Popen(command, env=os.environ | {"RANK": str(rank)}) for rank in range(2)]
    try:
        assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()


COMPILE = """
import os, sys, torch
import torch.distributed as dist
from functools import partial
from mae_fast.train import compiling, distributed
from tests.train.steps import batches, build

torch.set_num_threads(1)
rank, fails = int(os.environ["RANK"]), int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/group", rank=rank, world_size=2)
torch.compile = partial(torch.compile, backend="aot_eager")
compiling.pays_on_cpu = lambda loss, images: True
step = build(accumulate=2)
assert step.compiled
if fails == rank:
    step.loss.module.forward = lambda *_: 1 / 0
step.prepare(batches(1)[0])
assert step.compiled is (fails < 0)
losses = [step(imgs, 1e-3) for imgs in batches(4)[rank::2]]
assert losses[0] is None and losses[1].isfinite()
sums = distributed.gather(sum(p.double().sum().item() for p in step.parameters))
assert sums[0] == sums[1], sums
distributed.shutdown()
"""


@pytest.mark.parametrize("fails", [-1, 0, 1])
def test_what_one_rank_cannot_compile_no_rank_does(tmp_path, fails):
    command = [sys.executable, "-c", COMPILE, str(tmp_path), str(fails)]
    ranks = [subprocess.Popen(command, env=os.environ | {"RANK": str(r)}, stderr=subprocess.PIPE) for r in range(2)]
    try:
        said = [rank.communicate(timeout=100)[1].decode() for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0, 0], said
    finally:
        for rank in ranks:
            rank.kill()
    assert ("compile: the loss does not compile (ZeroDivisionError" in said[0]) is (
        fails >= 0
    ) and "does not" not in said[1]

"""The process group: ranks that leave it do not wait for each other, or for themselves."""

import os
import subprocess
import sys

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

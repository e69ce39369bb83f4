"""Runs from tar shards and from the cache: those of the files, and bit for bit the same when they are interrupted."""

import os
import signal

import pytest
import torch

from mae_fast.data import How, pack
from mae_fast.train import pretrain
from mae_fast.train.interrupt import Interrupted
from tests.train.runs import flags, log, on_update, parse, run, same


@pytest.mark.parametrize("kind, loader", [("shards", "dali"), ("decoded", "pillow")])
def test_a_run_interrupted_in_an_epoch_goes_on_bit_for_bit(photos, tmp_path, monkeypatch, kind, loader):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    packed, more, out = tmp_path / "packed", [f"--loader={loader}"], tmp_path / "cut"
    pack(photos, packed, how=How(decoded=kind == "decoded"))
    wanted = run(packed, tmp_path / "whole", *more)

    def signal_after(number, step, update):
        result = update()
        if number == 7:  # the second of five batches of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    with monkeypatch.context() as patch:
        on_update(patch, signal_after)
        with pytest.raises(Interrupted):
            pretrain(parse(flags(packed, out, *more)))
    torch.manual_seed(999)
    got = run(packed, out, "--auto_resume", *more)
    for key in ("model", "optimizer", "scaler"):
        assert same(got[key], wanted[key]), key
    assert log(out) == log(tmp_path / "whole")
    # of the files the same run, whose pictures were decoded by the same program
    assert same(run(photos, tmp_path / "files", *more)["model"], wanted["model"])

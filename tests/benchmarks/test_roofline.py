"""The roofline: the calls it counts are those that a step makes, and its times are what datasheets allow."""

import json
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mae_fast
from benchmarks.counting import flops, roofline
from mae_fast import config
from mae_fast.model import stages
from mae_fast.parity.cases import MODULES, calls

TINY = config.Preset(
    patch_size=8, embed_dim=48, depth=2, num_heads=3, decoder_embed_dim=32, decoder_depth=2, decoder_num_heads=2
)


class OpBytes(TorchDispatchMode):
    """Calls of each mae_fast op, and the bytes of what they read and write."""

    def __init__(self):
        super().__init__()
        self.calls, self.bytes = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.namespace == "mae_fast":
            name = func.__name__.split(".")[0]
            results = result if isinstance(result, tuple) else (result,)
            self.calls[name] += 1
            self.bytes[name] += sum(x.nbytes for x in (*args, *results) if isinstance(x, torch.Tensor))
        return result


@pytest.mark.skipif("reference" in [on["cpu"] for on in mae_fast.backends().values()], reason="no C++ kernels")
def test_the_calls_are_those_of_a_step():
    batch = 16
    model = mae_fast.MaskedAutoencoderViT(img_size=32, **TINY.kwargs())
    with OpBytes() as seen, torch.autocast("cpu", torch.bfloat16):
        model.training_loss(torch.zeros(batch, 32, 32, 3, dtype=torch.uint8)).backward()
    counted, size = Counter(), Counter()
    for op, _, shape, times in calls(stages.of_preset(TINY, 32), batch):
        for name, moved in zip((op, f"{op}_backward"), MODULES[op].least_bytes(shape, c=2), strict=True):
            if times and moved and name != "gather_patches_backward":  # nobody asks for the gradient of the images
                counted[name] += times
                size[name] += times * moved
    read = {"gather_patches": 4 / 16, "masked_mse": 12 / 16}  # of the images, which are an argument as a whole
    for op in counted:
        unread = batch * 32 * 32 * 3 * (1 - read.get(op, 1))
        assert counted[op] == seen.calls[op], op
        assert size[op] == pytest.approx(seen.bytes[op] - unread, rel=0.03), op


def test_products_are_all_there():
    preset, batch = config.BASE, 4
    step = roofline.work(preset, batch)
    linear = sum(p.flops for p in flops.products(preset, batch) if not p.attention)
    attention = sum(p.flops for p in flops.products(preset, batch) if p.attention)
    assert sum(operations for operations, _ in step.products) == linear
    assert sum(operations for operations, _ in step.attention) == pytest.approx(attention * 7 / 6)  # scores again
    parameters = roofline.PARAMETER * roofline.parameters(preset)
    assert roofline.work(preset, 2 * batch).rest - parameters == pytest.approx(2 * (step.rest - parameters), rel=0.01)


@pytest.mark.parametrize("name", config.SIZES)
def test_no_gpu_does_better_than_its_sheet(monkeypatch, name):
    for row in roofline.rows([name], 64):
        gpu = roofline.GPUS[row["gpu"]]
        assert 0 < row["mfu"] < 1 and row["images_per_s"] < gpu.peak / (row["gflop_per_image"] * 1e9)
    slow = roofline.Gpu(gpu.peak / 2, gpu.bandwidth / 2, gpu.memory)
    monkeypatch.setattr(roofline, "GPUS", {"B200": slow})
    assert roofline.rows([name], 64)[0]["images_per_s"] == pytest.approx(row["images_per_s"] / 2)


def test_command_line(tmp_path, capsys):
    file = tmp_path / "roofline.json"
    assert roofline.main(["--presets", "base", "--batch", "32", "--json", str(file)]) == 0
    assert "H200" in capsys.readouterr().out
    assert [row["gpu"] for row in json.loads(file.read_text())["rows"]] == ["A100", "H100", "H200", "B200"]
    for wrong in (["--presets", "medium"], ["--batch", "0"]):
        with pytest.raises(SystemExit):
            roofline.main(wrong)

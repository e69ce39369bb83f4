"""The models against numbers that facebookresearch/mae itself computed.

official_numbers.json holds, for two small models, what the official code gave in float64 with weights, images and noise
filled by `fill` below: the loss, some predictions, ids_restore, and the norm of every gradient.
"""

import json
from pathlib import Path

import pytest
import torch

import mae_fast

CASES = json.loads((Path(__file__).parent / "official_numbers.json").read_text())


def fill(tensor, seed, scale):
    """Numbers that any machine can make again: sin of a multiple of the index."""
    index = torch.arange(tensor.numel(), dtype=torch.float64)
    with torch.no_grad():
        tensor.copy_((scale * torch.sin(index * 0.7548776662 * (1 + seed % 7) + seed)).reshape(tensor.shape))


def filled(model):
    for seed, (name, p) in enumerate(model.named_parameters()):
        if "pos_embed" not in name:
            fill(p, seed, 0.2 if p.ndim > 1 else 0.5)
            if "norm" in name and name.endswith("weight"):
                p.data += 1
    return model


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize("cls", [mae_fast.MaskedAutoencoderViT, mae_fast.reference.MaskedAutoencoderViT])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_official_numbers(case, cls, dtype, tolerance):
    model = filled(cls(**case["config"]).double()).to(dtype)
    side, patches = case["config"]["img_size"], len(case["ids_restore"][0])
    imgs, noise = torch.empty(2, 3, side, side, dtype=dtype), torch.empty(2, patches, dtype=torch.float64)
    fill(imgs, 5, 2.0)
    fill(noise, 3, 1.0)
    loss, pred, _ = model(imgs, case["mask_ratio"], noise)
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=tolerance)
    scale = max(map(abs, case["pred"]))
    assert pred[:, ::5, ::29].flatten().tolist() == pytest.approx(case["pred"], rel=tolerance, abs=tolerance * scale)
    latent, _, ids_restore = model.forward_encoder(imgs, case["mask_ratio"], noise)
    assert ids_restore.tolist() == case["ids_restore"]
    assert latent.norm().item() == pytest.approx(case["latent_norm"], rel=tolerance)
    largest = max(case["gradient_norms"].values())
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(case["gradient_norms"], rel=tolerance, abs=tolerance * largest)

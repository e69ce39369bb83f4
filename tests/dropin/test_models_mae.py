"""mae_fast.models_mae and models_vit in place of the official files of that name.

official_drop_in.json holds what facebookresearch/mae over timm 0.3.2 gave: initial weights and masks for a seed, and,
in float64 with everything filled by `fill`, logits with and without stochastic depth and the norm of every gradient.
"""

import inspect
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import mae_fast
from mae_fast.dropin import models_mae, models_vit
from mae_fast.train.optim import make_optimizer
from tests.model.test_official_numbers import fill

OFFICIAL = json.loads((Path(__file__).parent / "official_drop_in.json").read_text())
TINY = OFFICIAL["mae"]["config"]


def some(p):
    """Three numbers of a tensor, as recorded."""
    return p.detach().double().flatten()[:: max(1, p.numel() // 3)][:3].tolist()


def check_initial(model, recorded):
    assert [name for name, _ in model.named_parameters()] == list(recorded)
    assert list(model.state_dict()) == list(recorded)
    for name, p in model.named_parameters():
        assert some(p) == pytest.approx(recorded[name], rel=1e-5, abs=1e-8), name


# ---- models_mae ----


def test_a_seed_gives_the_official_weights_and_masks():
    torch.manual_seed(0)
    model = models_mae.MaskedAutoencoderViT(**TINY)
    check_initial(model, OFFICIAL["mae"]["initial"])
    for draw in (
        lambda imgs: model.forward_encoder(imgs, 0.75),
        lambda imgs: model.random_masking(model.patch_embed(imgs), 0.75),
    ):
        torch.manual_seed(3)
        _, mask, ids_restore = draw(torch.zeros(2, 3, 32, 32))
        assert ids_restore.tolist() == OFFICIAL["mae"]["ids_restore"]
        assert mask.tolist() == (ids_restore >= 4).float().tolist()


def test_names_signatures_and_defaults():
    def names(function):
        return list(inspect.signature(function).parameters)

    cls = models_mae.MaskedAutoencoderViT
    assert names(cls)[:12] == [
        "img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "decoder_embed_dim", "decoder_depth",
        "decoder_num_heads", "mlp_ratio", "norm_layer", "norm_pix_loss",
    ]  # fmt: skip
    assert inspect.signature(cls).parameters["norm_layer"].default is nn.LayerNorm
    assert names(cls.forward)[:3] == ["self", "imgs", "mask_ratio"]
    assert names(cls.forward_encoder)[:3] == names(cls.random_masking) == ["self", "x", "mask_ratio"]
    assert names(cls.forward_decoder) == ["self", "x", "ids_restore"]
    assert names(cls.forward_loss) == ["self", "imgs", "pred", "mask"]
    for size in ("base_patch16", "large_patch16", "huge_patch14"):
        built = models_mae.__dict__[f"mae_vit_{size}"]
        assert built is models_mae.__dict__[f"mae_vit_{size}_dec512d8b"]
        model = built(norm_pix_loss=True, depth=1, decoder_depth=1)
        vit = models_vit.__dict__[f"vit_{size}"](global_pool=True, depth=1)
        assert model.norm_pix_loss and model.norm.eps == vit.fc_norm.eps == 1e-6
        theirs = {k: p.shape for k, p in vit.named_parameters() if not k.startswith(("head", "fc_norm"))}
        assert theirs.items() <= {k: p.shape for k, p in model.named_parameters()}.items()


def test_patch_embed_takes_images_as_the_official_one():
    model = models_mae.MaskedAutoencoderViT(**TINY)
    imgs = torch.randn(2, 3, 32, 32)
    assert torch.allclose(model.patch_embed(imgs), model.patch_embed(model.patchify(imgs)), atol=1e-6)
    with pytest.raises(ValueError, match=r"x: this model takes images of \(32, 32\)"):
        model.patch_embed(torch.zeros(2, 3, 40, 32))


def test_overriding_a_piece_changes_the_model_as_it_would_there():
    class KeepsTheFirst(models_mae.MaskedAutoencoderViT):
        def random_masking(self, x, mask_ratio):
            ids = torch.arange(16).expand(len(x), -1)
            return x[:, :4], (ids >= 4).float(), ids

    class Absolute(models_mae.MaskedAutoencoderViT):
        def forward_loss(self, imgs, pred, mask):
            return ((pred - self.patchify(imgs)).abs().mean(-1) * mask).sum() / mask.sum()

    imgs = torch.randn(2, 3, 32, 32)
    plain = mae_fast.MaskedAutoencoderViT(**TINY, norm_layer=nn.LayerNorm)
    first = torch.arange(16.0).expand(2, -1)
    wanted, pred, mask = plain(imgs, 0.75, noise=first)

    model = KeepsTheFirst(**TINY)
    model.load_state_dict(plain.state_dict())
    for loss in (model(imgs)[0], model.training_loss(imgs)):
        assert torch.allclose(loss, wanted, rtol=1e-5)
    assert torch.equal(model(imgs)[2], mask)
    with pytest.raises(ValueError, match="noise: this model's own random_masking"):
        model(imgs, noise=first)

    model = Absolute(**TINY)
    model.load_state_dict(plain.state_dict())
    loss, same_pred, _ = model(imgs, 0.75, first)
    assert torch.allclose(same_pred, pred, atol=1e-5)
    assert torch.allclose(loss, ((pred - plain.patchify(imgs)).abs().mean(-1) * mask).sum() / mask.sum(), rtol=1e-5)


def test_our_optimizer_s_state_is_the_official_one_s():
    """Its groups, as the official script and timm build them: biases and vectors first, in the model's order."""
    model = models_mae.MaskedAutoencoderViT(**TINY)
    ours = make_optimizer(model, "adamw", 1e-3, 0.05)
    model(torch.randn(2, 3, 32, 32))[0].backward()
    ours.step()
    params = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    bare = [p for name, p in params if p.ndim == 1 or name.endswith(".bias")]
    rest = [p for name, p in params if not (p.ndim == 1 or name.endswith(".bias"))]
    theirs = torch.optim.AdamW([{"params": bare, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.05}], lr=1e-3)
    theirs.load_state_dict(ours.state_dict())
    for p in bare + rest:
        assert torch.equal(theirs.state[p]["exp_avg"], ours.state[p]["exp_avg"])
        assert torch.allclose(theirs.state[p]["exp_avg"], 0.1 * p.grad)  # of this parameter, not of another
    theirs.step()


# ---- models_vit ----


@pytest.mark.parametrize("case", OFFICIAL["vit"], ids=lambda case: f"global_pool={case['global_pool']}")
def test_vit_draws_and_computes_what_the_official_one_does(case):
    torch.manual_seed(0)
    model = models_vit.VisionTransformer(case["global_pool"], norm_layer=models_mae.NORM, **case["config"])
    check_initial(model, case["initial"])
    model.double()
    for seed, (name, p) in enumerate(model.named_parameters()):
        fill(p, seed, 0.2 if p.ndim > 1 else 0.5)
        if "norm" in name and name.endswith("weight"):
            p.data += 1
    imgs = torch.empty(6, 3, 32, 32, dtype=torch.float64)
    fill(imgs, 5, 2.0)
    assert model.eval()(imgs).flatten().tolist() == pytest.approx(case["evaluated"], rel=1e-9, abs=1e-9)
    torch.manual_seed(1)
    logits = model.train()(imgs)
    assert logits.flatten().tolist() == pytest.approx(case["trained"], rel=1e-9, abs=1e-9)
    nn.functional.cross_entropy(logits, torch.arange(6) % 5).backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    assert norms == pytest.approx(case["gradient_norms"], rel=1e-9, abs=1e-9)


def test_vit_for_the_scripts():
    model = models_vit.VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=5)
    assert model.no_weight_decay() == {"pos_embed", "cls_token"} and model.num_features == model.embed_dim == 32
    model.reset_classifier(3)
    assert model.get_classifier().out_features == model(torch.zeros(2, 3, 32, 32)).shape[1] == 3
    model.reset_classifier(0)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 32)
    for argument in ({"qkv_bias": False}, {"attention": "fastest"}):
        with pytest.raises(ValueError, match=next(iter(argument))):
            models_vit.VisionTransformer(**argument)

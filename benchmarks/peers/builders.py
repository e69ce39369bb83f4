"""Who is measured side by side: each builder makes a model as its own users do and gives it the weights of `state`.

state: official keys. kwargs: arguments of `MaskedAutoencoderViT`, on square RGB images, norm_pix_loss among them. Every
peer runs 75 % masked, LayerNorm eps 1e-6, and draws its mask itself, by one torch.rand(B, L).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import mae_fast
from benchmarks.peers import official_shim
from mae_fast.files import layouts
from mae_fast.parity.model import MASK_RATIO

EPS = 1e-6


@dataclass
class Peer:
    model: nn.Module
    loss: Callable[[Tensor], Tensor]  # float images -> scalar
    official_names: Callable[[dict], dict] = dict  # a state dict of theirs -> official keys

    def gradients(self) -> dict[str, Tensor]:
        """Gradients of the parameters, by official key."""
        return self.official_names({k: p.grad for k, p in self.model.named_parameters() if p.grad is not None})


def ours(state: dict, kwargs: dict, device: str) -> Peer:
    model = mae_fast.MaskedAutoencoderViT(**kwargs).to(device)
    model.load_state_dict(state)
    return Peer(model, partial(model.training_loss, mask_ratio=MASK_RATIO))


def official(state: dict, kwargs: dict, device: str, directory: Path) -> Peer:
    """The official model, from a clone of facebookresearch/mae (benchmarks.peers.official_shim)."""
    cls = official_shim.load(directory).MaskedAutoencoderViT
    model = cls(**kwargs, norm_layer=partial(nn.LayerNorm, eps=EPS)).to(device)
    model.load_state_dict(state)
    return Peer(model, lambda imgs: model(imgs, mask_ratio=MASK_RATIO)[0])


def with_sdpa(peer: Peer) -> Peer:
    """The official model as it runs with today's timm, attention by scaled_dot_product_attention; same parameters."""
    model = copy.deepcopy(peer.model, {id(p): p for p in peer.model.parameters()})
    for module in model.modules():
        if isinstance(module, official_shim.Attention):
            module.fused_attn = True
    return Peer(model, lambda imgs: model(imgs, mask_ratio=MASK_RATIO)[0])


def huggingface(state: dict, kwargs: dict, device: str) -> Peer:
    """ViTMAEForPreTraining of the installed transformers, with PyTorch's fused attention."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    model = ViTMAEForPreTraining(ViTMAEConfig(
        image_size=kwargs["img_size"],
        patch_size=kwargs["patch_size"],
        hidden_size=kwargs["embed_dim"],
        num_hidden_layers=kwargs["depth"],
        num_attention_heads=kwargs["num_heads"],
        intermediate_size=int(kwargs["embed_dim"] * kwargs["mlp_ratio"]),
        decoder_hidden_size=kwargs["decoder_embed_dim"],
        decoder_num_hidden_layers=kwargs["decoder_depth"],
        decoder_num_attention_heads=kwargs["decoder_num_heads"],
        decoder_intermediate_size=int(kwargs["decoder_embed_dim"] * kwargs["mlp_ratio"]),
        layer_norm_eps=EPS,
        mask_ratio=MASK_RATIO,
        norm_pix_loss=kwargs["norm_pix_loss"],
        attn_implementation="sdpa",
    )).to(device).train()  # fmt: skip
    # One table of names, that of layouts: pass each key's index through it in place of its weights.
    keys = list(model.state_dict())
    numbers = layouts.from_huggingface({key: torch.tensor([i]) for i, key in enumerate(keys)})
    model.load_state_dict({
        keys[i]: part
        for name, ids in numbers.items()
        for i, part in zip(ids.tolist(), state[name].chunk(len(ids)) if len(ids) > 1 else [state[name]], strict=True)
    })  # fmt: skip
    return Peer(model, lambda imgs: model(imgs).loss, layouts.from_huggingface)

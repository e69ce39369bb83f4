"""Hugging Face's ViTMAE and ViT on our ops, in place: `accelerate()`, undone by `restore()`.

The manner of Liger-Kernel: the model stays Hugging Face's, with its parameters, configuration, hooks and outputs, and
the forwards of its parts are replaced. A part that does more than we do (dropout of the attention, a mask, attention
weights to return, another activation, a wrapped or hooked layer) runs its own forward. Works with transformers 4.57 to
5.23; up to 5.8 a layer has its parts under other names, hence two functions for some of them. The blocks of ViT, which
people finetune after pretraining, are those of ViTMAE under names without MAE.
"""

import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_fast import ops
from mae_fast.dropin.forward_swap import ForwardSwap
from mae_fast.model import masking
from mae_fast.model.attention import ATTENTION
from mae_fast.model.linear import is_plain
from mae_fast.model.precision import compute_dtype
from mae_fast.model.stream import Stream, add_norm

_swap = ForwardSwap()
KEEPS_WEIGHTS = "_mae_fast_keeps_weights"


def accelerate(model: nn.Module | None = None) -> nn.Module | None:
    """Run a model with a ViTMAEModel or ViTModel in it on mae_fast's ops; without a model, all such models.

    ViTMAEForPreTraining, ViTForImageClassification, ViTForMaskedImageModeling, or a model of one's own around those.

    Returns the model. Inputs, output fields, random masks, parameters and state dict stay; `attn_implementation` no
    longer matters, except that `output_attentions=True` is computed by Hugging Face's own code, with a warning. Comes
    before FSDP2, which copies the forward of a class, and before torch.compile, which would compile again.
    Raises ImportError for a transformers that is absent or too old, ValueError for a model with neither in it.
    """
    forwards = _forwards()
    whole = tuple(cls for cls, fast in forwards.items() if fast is _model)
    if model is not None and not any(isinstance(module, whole) for module in model.modules()):
        names = " or ".join(cls.__name__ for cls in whole)
        raise ValueError(f"model: expected one built around a {names}, found none in {type(model).__name__}")
    for cls, fast in forwards.items():
        _swap.install(cls, fast)
    if model is None:
        _swap.turn_on_everywhere()
        return None
    for module in model.modules():
        if isinstance(module, tuple(forwards)):
            _swap.turn_on(module)
    return model


def restore() -> None:
    """Undo every `accelerate`: classes and models run Hugging Face's own code again."""
    _swap.restore()


def _forwards() -> dict[type, Callable]:
    """Class of transformers -> the forward that replaces its own."""
    forwards = {}
    for prefix, modeling in _transformers().items():
        parts = _PARTS if hasattr(modeling, f"{prefix}MLP") else _PARTS_TO_5_8
        ends = _ENDS if prefix == "ViTMAE" else {}  # ViT embeds every patch, and its heads are its own
        forwards |= {getattr(modeling, prefix + name): fast for name, fast in (_FORWARDS | parts | ends).items()}
    return forwards


def _transformers() -> dict[str, ModuleType]:
    """The modules with the models, by the prefix of their classes."""
    try:
        from transformers.models.vit import modeling_vit
        from transformers.models.vit_mae import modeling_vit_mae
    except ImportError as error:
        raise ImportError(f"mae_fast.hf needs transformers 4.57 or newer ({error}); pip install transformers") from None
    found = version("transformers")
    if tuple(map(int, found.split(".")[:2])) < (4, 57):
        raise ImportError(f"mae_fast.hf needs transformers 4.57 or newer, found {found}; pip install -U transformers")
    return {"ViTMAE": modeling_vit_mae, "ViT": modeling_vit}


def _attention(original, self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs):
    parts = self.q_proj, self.k_proj, self.v_proj
    if attention_mask is not None or not _fusable(self, parts, self.attention_dropout):
        return original(self, hidden_states, attention_mask, **kwargs)
    return self.o_proj(_attend(hidden_states, parts, self.num_attention_heads)), None


def _self_attention(original, self, hidden_states: Tensor, head_mask: Tensor | None = None, **kwargs):
    """transformers up to 5.8, where the projection of the result is another module."""
    parts = self.query, self.key, self.value
    if head_mask is not None or not _fusable(self, parts, self.dropout_prob):
        return original(self, hidden_states, *(() if head_mask is None else (head_mask,)), **kwargs)
    return _attend(hidden_states, parts, self.num_attention_heads), None


def _fusable(attention: nn.Module, parts: tuple[nn.Module, ...], dropout: float) -> bool:
    plain = all(is_plain(part, nn.Linear) for part in parts)
    return plain and not (dropout and attention.training) and not getattr(attention, KEEPS_WEIGHTS, False)


def _model(original, self, *args, **kwargs):
    """Mark the layers whether to return attention weights: not every version does, and a recomputation must agree."""
    wanted = bool(kwargs.get("output_attentions", getattr(self.config, "output_attentions", False)))
    if wanted != getattr(self, KEEPS_WEIGHTS, False):
        for module in self.modules():
            setattr(module, KEEPS_WEIGHTS, wanted)
    if wanted:
        _warn_once("output_attentions: mae_fast keeps no attention weights; Hugging Face's own attention computes them")
    return original(self, *args, **kwargs)


@cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=2)


def _attend(x_BND: Tensor, parts: tuple[nn.Linear, ...], num_heads: int) -> Tensor:
    """Query, key and value in one product, packed as the op takes them: weights to copy are fewer than results."""
    dtype = compute_dtype(x_BND.device, parts[0].weight.dtype)
    weight = torch.cat([part.weight.to(dtype) for part in parts])
    bias = None if parts[0].bias is None else torch.cat([part.bias.to(dtype) for part in parts])
    return ATTENTION["auto"](F.linear(x_BND, weight, bias).unflatten(-1, (3, num_heads, -1)))


def _mlp(original, self, hidden_states: Tensor) -> Tensor:
    if not _gelu(self, self.fc1):
        return original(self, hidden_states)
    return self.fc2(ops.bias_gelu(F.linear(hidden_states, self.fc1.weight), self.fc1.bias))


def _intermediate(original, self, hidden_states: Tensor) -> Tensor:
    """transformers up to 5.8: the first half of the MLP."""
    if not _gelu(self, self.dense):
        return original(self, hidden_states)
    return ops.bias_gelu(F.linear(hidden_states, self.dense.weight), self.dense.bias)


def _gelu(mlp: nn.Module, linear: nn.Module) -> bool:
    activation = mlp.activation_fn if hasattr(mlp, "activation_fn") else mlp.intermediate_act_fn
    return type(activation).__name__ == "GELUActivation" and is_plain(linear, nn.Linear)


def _layer(original, self, hidden_states: Tensor, *args, **kwargs) -> Tensor:
    x, normed = add_norm(Stream(hidden_states), self.layernorm_before)
    if hasattr(self, "output"):  # transformers up to 5.8
        x, normed = add_norm(Stream(x, self.attention(normed, *args, **kwargs)), self.layernorm_after)
        return self.output(self.intermediate(normed), x)
    x, normed = add_norm(Stream(x, self.dropout(self.attention(normed, *args, **kwargs)[0])), self.layernorm_after)
    return self.dropout(self.mlp(normed)) + x


def _embeddings(original, self, pixel_values: Tensor, noise: Tensor | None = None, interpolate_pos_encoding=False):
    """Embed the visible patches alone."""
    patches = self.patch_embeddings
    B, L = len(pixel_values), patches.num_patches
    if (
        interpolate_pos_encoding
        or pixel_values.shape[1:] != (patches.num_channels, *patches.image_size)
        or not pixel_values.is_floating_point()
        or not (noise is None or (noise.is_floating_point() and noise.shape == (B, L)))
        or not _plain_convolution(patches.projection)
    ):
        return original(self, pixel_values, noise, interpolate_pos_encoding)
    device, weight = pixel_values.device, patches.projection.weight
    noise = masking.uniform if noise is None else noise.to(device)
    ids_shuffle, ids_restore, mask, len_keep = masking.draw_mask(noise, B, (1, L), device, self.config.mask_ratio)
    ids_keep = ids_shuffle[:, :len_keep]
    visible = ops.gather_patches(pixel_values, ids_keep, weight.shape[-1], [], [], compute_dtype(device, weight.dtype))
    x = F.linear(visible, weight.permute(0, 2, 3, 1).flatten(1), patches.projection.bias)
    cls = (self.cls_token + self.position_embeddings[:, :1]).expand(B, -1, -1)
    return torch.cat([cls, x + F.embedding(ids_keep, self.position_embeddings[0, 1:])], dim=1), mask, ids_restore


def _plain_convolution(projection: nn.Module) -> bool:
    """Whether it takes one square patch after the other."""
    return (
        is_plain(projection, nn.Conv2d)
        and projection.kernel_size == projection.stride == projection.kernel_size[::-1]
        and not any(projection.padding)
    )


def _pretraining(original, self, pixel_values: Tensor | None = None, noise: Tensor | None = None, *args, **kwargs):
    """The loss from the masked patches alone; the predictions are those of every patch, being an output."""
    return_dict, L = kwargs.get("return_dict"), self.vit.embeddings.patch_embeddings.num_patches
    if (
        args
        or pixel_values is None
        or kwargs.get("interpolate_pos_encoding")
        or not (self.config.return_dict if return_dict is None else return_dict)
        or int(L * (1 - self.config.mask_ratio)) == L  # whose loss is 0 / 0
    ):
        return original(self, pixel_values, noise, *args, **kwargs)
    from transformers.models.vit_mae.modeling_vit_mae import ViTMAEForPreTrainingOutput

    kwargs.pop("return_dict", None)
    outputs = self.vit(pixel_values, noise=noise, **kwargs)
    logits = self.decoder(outputs.last_hidden_state, outputs.ids_restore).logits
    ids_masked = outputs.ids_restore.argsort(dim=1)[:, outputs.last_hidden_state.shape[1] - 1 :]
    loss = ops.masked_mse(logits, pixel_values, ids_masked, self.config.patch_size, [], [], self.config.norm_pix_loss)
    return ViTMAEForPreTrainingOutput(
        loss=loss,
        logits=logits,
        mask=outputs.mask,
        ids_restore=outputs.ids_restore,
        hidden_states=outputs.hidden_states,
        attentions=outputs.attentions,
    )


# By the names of the classes after their prefix, ViTMAE or ViT.
_FORWARDS = {"Model": _model, "Layer": _layer}
_PARTS = {"Attention": _attention, "MLP": _mlp}
_PARTS_TO_5_8 = {"SelfAttention": _self_attention, "Intermediate": _intermediate}
_ENDS = {"ForPreTraining": _pretraining, "Embeddings": _embeddings}

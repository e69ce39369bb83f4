"""Small models of Hugging Face, and what holds before and after."""

import torch
from transformers import (
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

from mae_fast.dropin import hf

LAYERS = 4  # two encoder, two decoder


OURS = {"attention": LAYERS, "bias_gelu": LAYERS, "add_layer_norm": 2 * LAYERS}


def tiny(cls=ViTMAEForPreTraining, config_class=ViTMAEConfig, **changes):
    """A model in training, away from the zeros and ones of initialisation."""
    config = dict(
        image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        decoder_hidden_size=32, decoder_num_hidden_layers=2, decoder_num_attention_heads=2,
        decoder_intermediate_size=64, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    model = cls(config_class(**config | changes)).train()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model


def images(channels=3, size=(32, 32)):
    return torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(1))


def run(model, *args, **kwargs):
    """-> (outputs, every gradient), masks and dropout drawn from the same seed."""
    torch.manual_seed(2)
    model.zero_grad()
    outputs = model(*args, **kwargs)
    outputs[0].sum().backward()
    return outputs, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def flat(outputs):
    """Tensors by the place they have in the outputs."""
    items = outputs.items() if hasattr(outputs, "items") else enumerate(outputs)
    result = {}
    for key, value in items:
        result |= {(key, i): x for i, x in enumerate(value)} if isinstance(value, tuple) else {key: value}
    return result


def assert_same(actual, expected, tolerance=1e-5):
    assert actual.keys() == expected.keys()
    scale = max(x.abs().max().item() for x in expected.values() if x.is_floating_point() and not x.isnan().any())
    for key, x in expected.items():
        assert actual[key].dtype == x.dtype, key
        size = max(x.nan_to_num().abs().max().item(), 1e-2 * scale)
        assert torch.allclose(actual[key], x, rtol=0, atol=tolerance * size, equal_nan=True), key


def assert_accelerated_is_the_same(model, inputs, calls):
    """Outputs and gradients before and after; calls: of the ops, so far none."""
    expected, wanted = run(model, **inputs)
    assert not any(calls.values())
    assert hf.accelerate(model) is model
    actual, got = run(model, **inputs)
    assert type(actual) is type(expected)
    assert_same(flat(actual), flat(expected))
    assert_same(got, wanted)

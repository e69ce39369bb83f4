"""timm's VisionTransformer: the official names of an encoder, but for where the last norm stands."""

from mae_fast.files.layouts.official import State, is_decoder_key


def from_timm(state: State) -> State:
    """A timm VisionTransformer state without its head -> the official keys: fc_norm is the norm of average pooling."""
    pooled = pool_of(state) == "avg"
    return {key.replace("fc_norm.", "norm.") if pooled else key: value for key, value in state.items()}


def pool_of(state: State) -> str:
    """What the last norm of a state is for: avg, the mean patch (fc_norm), or token, the class token (norm)."""
    return "avg" if "fc_norm.weight" in state and "norm.weight" not in state else "token"


def to_timm(state: State, pool: str) -> State:
    """The encoder of an official state -> the keys of timm's vit_*_patch*_224 with global_pool=pool, num_classes=0."""
    return name_norm({key: value for key, value in state.items() if not is_decoder_key(key)}, pool)


def name_norm(state: State, pool: str) -> State:
    """An official state, its last norm under the name that a classifier gives it.

    pool: token, which norms the sequence and takes the class token, or avg, which norms (fc_norm) the mean patch.
    """
    norm = {"token": "norm.", "avg": "fc_norm."}[pool]
    return {norm + key.removeprefix("norm.") if key.startswith("norm.") else key: state[key] for key in state}

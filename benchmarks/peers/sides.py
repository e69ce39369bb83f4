"""A training step of each peer, as its own script takes it, and ours, as `mae-fast pretrain` takes it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness.record import reason
from benchmarks.peers import builders as peers
from mae_fast.config import DTYPES
from mae_fast.parity.model import LOSS_SCALE, autocast, unscale
from mae_fast.train.optim import make_optimizer, param_groups
from mae_fast.train.step import TrainingStep

LR, WEIGHT_DECAY = 1.5e-4, 0.05
OURS = "ours compiled"
ALONE = "products alone"  # of our step, the limit of all


@dataclass(frozen=True)
class Spec:
    """Who runs a step, and how."""

    name: str
    peer: str
    dtype: str
    compiled: bool = False
    fused: bool = False  # AdamW
    mode: str | None = None  # of torch.compile
    undone: str | None = None  # ours as by default but for this one of UNDONE; "": for none; None: as said above

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}"


def specs(dtypes: list[str], device: str) -> Iterator[Spec]:
    yield Spec("official as shipped", "official", "fp16" if device == "cuda" else "fp32")
    for dtype in dtypes:
        yield Spec("official", "official", dtype)
        yield Spec("official compiled", "official", dtype, compiled=True, fused=True)
        yield Spec("official SDPA compiled", "official SDPA", dtype, compiled=True, fused=True)
    yield Spec("Hugging Face as shipped", "Hugging Face", "fp32", fused=True)
    for dtype in dtypes:
        yield Spec("Hugging Face", "Hugging Face", dtype, fused=True)
        yield Spec("Hugging Face compiled", "Hugging Face", dtype, compiled=True, fused=True)
    for dtype in dtypes:
        yield Spec("ours", "ours", dtype, fused=True)
        yield Spec(OURS, "ours", dtype, compiled=True, fused=True)
        if device == "cuda":
            yield Spec("ours CUDA graph", "ours", dtype, compiled=True, fused=True)


UNDONE = {
    "no CUDA graph": {"cuda_graphs": False},
    "no compile": {"compile": False},
    "fp32 stream": {},
    "attention sdpa": {},
}
MADE_OF = {"official SDPA": "official"}  # a peer that is another's model


def turns_specs(dtype: str, device: str) -> Iterator[Spec]:
    """Who takes turns in `mae-fast bench turns`, what matters most first."""
    yield Spec("ours", "ours", dtype, fused=True, undone="")
    yield Spec("official as shipped", "official", "fp16" if device == "cuda" else "fp32")
    for name, peer in (("official SDPA", "official SDPA"), ("Hugging Face", "Hugging Face")):
        yield Spec(f"{name} compiled", peer, dtype, compiled=True, fused=True)
        yield Spec(f"{name} reduce-overhead", peer, dtype, compiled=True, fused=True, mode="reduce-overhead")
    for choice in UNDONE:
        peer = "ours, SDPA" if choice == "attention sdpa" else "ours"
        yield Spec(f"ours, {choice}", peer, dtype, fused=True, undone=choice)
    yield Spec(ALONE, "products", dtype)


class Side:
    """A step as a peer's own script takes it."""

    def __init__(self, spec: Spec, peer: peers.Peer, optimizer: torch.optim.Optimizer, device: str):
        self.peer, self.dtype, self.optimizer = peer, DTYPES[spec.dtype], optimizer
        self.loss = torch.compile(peer.loss, dynamic=False, mode=spec.mode) if spec.compiled else peer.loss
        scale = LOSS_SCALE.get(self.dtype)
        self.scaler = torch.amp.GradScaler(device, init_scale=scale or 1.0, enabled=scale is not None)

    def forward_backward(self, imgs: Tensor) -> Tensor:
        with autocast(imgs.device, self.dtype):
            loss = self.loss(imgs)
        self.scaler.scale(loss).backward()
        return loss.detach()

    def step(self, imgs: Tensor) -> Tensor:
        """-> the loss, until the next step."""
        loss = self.forward_backward(imgs)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.clear()
        return loss

    def gradients(self) -> dict[str, Tensor]:
        return unscale(self.peer.gradients(), self.scaler.get_scale())

    def clear(self) -> None:
        self.optimizer.zero_grad()


class OurSide(Side):
    """A step as `mae-fast pretrain` takes it. What is held to the parity rule is the passes that a graph captures."""

    def __init__(self, spec: Spec, peer: peers.Peer, optimizer: torch.optim.Optimizer, device: str):
        self.peer, self.dtype, self.optimizer = peer, DTYPES[spec.dtype], optimizer
        if spec.undone is None:
            how = {"compile": spec.compiled, "cuda_graphs": "CUDA graph" in spec.name}
        else:
            how = UNDONE.get(spec.undone, {})
            peer.model.stream = torch.float32 if spec.undone == "fp32 stream" else None
        self.train = TrainingStep(peer.model, optimizer, dtype=self.dtype, **how)
        self.scaler = self.train.scaler

    def forward_backward(self, imgs: Tensor) -> Tensor:
        return self.train.backward(imgs)

    def step(self, imgs: Tensor) -> Tensor:
        return self.train(imgs, LR)

    @property
    def runs(self) -> str:
        """What became of the choices that a run decides by itself."""
        how = "compiled" if self.train.compiled else "eager"
        return how + (", one CUDA graph" if self.train.graphs is not None else "")


def optimizers(peer: peers.Peer, official: bool, device: str) -> dict[bool, torch.optim.Optimizer]:
    """{fused: AdamW}. The groups are the same for all: no decay on biases and norms is everybody's rule."""
    fused = make_optimizer(peer.model, "adamw", LR, WEIGHT_DECAY)
    if not official:
        return {True: fused}
    plain = torch.optim.AdamW(param_groups(peer.model, WEIGHT_DECAY), lr=LR, betas=(0.9, 0.95))
    if device == "cpu":  # on CUDA the fused one counts its steps in a tensor there, and the plain one does not
        plain.state = fused.state
    return {False: plain, True: fused}


def build(
    wanted: list[Spec], state: dict, kwargs: dict, device: str, official: Path | None
) -> tuple[dict[Spec, Side], dict[Spec, str]]:
    """-> (sides, why the others are not there)."""
    builders = {
        "official": lambda: peers.official(state, kwargs, device, official),
        "Hugging Face": lambda: peers.huggingface(state, kwargs, device),
        "ours": lambda: peers.ours(state, kwargs, device),
        "ours, SDPA": lambda: peers.ours(state, kwargs | {"attention": "sdpa"}, device),
    }
    models, absent, sides = {}, {}, {}
    for name, builder in builders.items():
        if not any(MADE_OF.get(spec.peer, spec.peer) == name for spec in wanted):
            continue
        try:
            if name == "official" and official is None:
                raise FileNotFoundError("give --official DIR")
            peer = builder()
            models[name] = peer, optimizers(peer, name == "official", device)
            if name == "official":
                models["official SDPA"] = peers.with_sdpa(peer), models[name][1]
        except Exception as error:  # whatever a peer's code or its absence raises is the answer
            absent[name] = f"not run: {reason(error)}"
    for spec in wanted:
        if spec.peer in models:
            peer, adamw = models[spec.peer]
            cls = OurSide if spec.peer.startswith("ours") else Side
            sides[spec] = cls(spec, peer, adamw[spec.fused], device)
    return sides, {spec: absent[MADE_OF.get(spec.peer, spec.peer)] for spec in wanted if spec not in sides}

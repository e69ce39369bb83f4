"""A prediction of pretraining on many GPUs: how fast, what it costs, and what is the limit.

An update of the run is `accumulate` batches of `batch` images on each GPU, then one exchange of gradients and AdamW:

    compute   accumulate (per_batch + batch per_image) + per_update          from a step that was measured on one GPU
    network   what the forward and the backward pass do not hide of the exchange (benchmarks.counting.cluster)
    launches  accumulate launch: the host launches kernel after kernel where no CUDA graph does; a lower bound
    data      the images over what a GPU's share of the node loads; a lower bound

    step = max(compute + network, launches, data)

All but the measured parts of compute, launches and data is predicted.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch

import mae_fast
from benchmarks.counting.cluster import Cluster, Exchange, exchange
from mae_fast.config import SIZES
from mae_fast.train.step_memory import StepMemory, step_memory

EFFECTIVE_BATCH, EPOCHS, IMAGENET = 4096, 800, 1_281_167  # He et al. 2022, appendix A.1; images
PRICE = 3.0  # dollars a GPU and hour: an assumption, give your own
MOST = 512  # images a GPU at once; more gain little
SMALL_BATCH = 0.3  # of compute in what no image adds to: more of it, and the batch is too small for the GPU
H200S = Cluster()
NETWORK = 0.1  # of compute, past which the exchange is called the limit

CHANGES = {
    "compute": "nothing: more GPUs help",
    "small batches": "fewer GPUs, or a larger effective batch",
    "launches": "a CUDA graph on every rank; until then more images a GPU, or fewer GPUs",
    "network": "bfloat16 gradients; more images a GPU between exchanges",
    "data": "JPEG files of 256 pixels, then a decoded cache",
    "memory": "smaller batches that accumulate; FSDP; activation checkpointing",
}


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step on one GPU. source: measured, or what it was estimated from."""

    per_image: float
    per_batch: float  # whatever the batch size
    per_update: float  # the optimizer
    launch: float  # of the host, for a step without a CUDA graph
    source: str

    def __call__(self, batch: int, accumulate: int = 1) -> float:
        return accumulate * (self.per_batch + batch * self.per_image) + self.per_update


@dataclass(frozen=True)
class Loading:
    """Images a second that one GPU's loader gave on so many cores of a CPU."""

    images_per_s: float
    cores: int

    def seconds(self, images: int, gpus: int, cluster: Cluster) -> float:
        """For so many images on each GPU, where cores are fewer, or the node's storage is slower."""
        decode = images / (self.images_per_s * min(1, cluster.cores_per_gpu / self.cores))
        return max(decode, images * cluster.local(gpus) * cluster.jpeg / cluster.storage)


@dataclass(frozen=True)
class Prediction:
    preset: str
    gpus: int
    strategy: str
    graph: bool
    batch: int  # images a GPU at once
    accumulate: int
    compute: float
    exchange: Exchange
    exchanges: int  # an update
    network: float
    launches: float
    data: float
    memory: float  # bytes a GPU
    too_large: bool  # a larger batch was asked for than memory holds
    ideal: float  # images/s of so many GPUs that only compute, batches as large as asked for

    @property
    def images(self) -> int:
        return self.gpus * self.batch * self.accumulate

    @property
    def sent(self) -> float:
        """Bytes that a GPU sends an update."""
        return self.exchanges * self.exchange.sent

    @property
    def step(self) -> float:
        return max(self.compute + self.network, self.launches, self.data)

    @property
    def images_per_s(self) -> float:
        return self.images / self.step

    @property
    def efficiency(self) -> float:
        return self.images_per_s / self.ideal

    @property
    def limit(self) -> str:
        if self.too_large:
            return "memory"
        if self.step > self.compute + self.network:
            return "data" if self.data >= self.launches else "launches"
        if self.network > NETWORK * self.compute:
            return "network"
        return "compute" if self.efficiency > 1 - SMALL_BATCH else "small batches"

    def hours(self, epochs: int = EPOCHS) -> float:
        return epochs * IMAGENET / self.images_per_s / 3600

    def dollars(self, price: float = PRICE, epochs: int = EPOCHS) -> float:
        return self.hours(epochs) * self.gpus * price


@cache
def needs(preset: str) -> tuple[StepMemory, int]:
    """-> (memory of a step with bfloat16 products on one GPU, trained parameters)."""
    with torch.device("meta"):
        model = mae_fast.MaskedAutoencoderViT(**SIZES[preset].kwargs())
    return step_memory(model, torch.bfloat16), sum(p.numel() for p in model.parameters() if p.requires_grad)


def memory(need: StepMemory, strategy: str, gpus: int) -> tuple[float, float]:
    """-> (bytes a GPU whatever the batch, bytes an image more). FSDP's few blocks of whole weights are not counted."""
    image = need.per_image + need.pixels  # on CUDA twice: as loaded, and where a graph reads them
    if strategy == "fsdp":
        return need.fixed / gpus, image
    return need.fixed, image


def predict(
    preset: str, gpus: int, cost: StepCost, loading: Loading, *, batch: int, strategy: str = "ddp",
    graph: bool | None = None, effective: int = EFFECTIVE_BATCH, cluster: Cluster = H200S,
) -> Prediction:  # fmt: skip
    """Pretraining with `effective` images an update on so many GPUs, at most `batch` of them on a GPU at once.

    graph: the step is one CUDA graph; None: on one GPU, as `mae-fast pretrain` does. ValueError where memory holds not
    one image.
    """
    need, parameters = needs(preset)
    fixed, image = memory(need, strategy, gpus)
    most = math.floor((cluster.memory() - fixed) / image)
    if most < 1:
        raise ValueError(f"gpus: {preset} needs {fixed / 1e9:.0f} GB on each of {gpus} before one image; try fsdp")
    each = math.ceil(effective / gpus)
    accumulate = math.ceil(each / min(batch, most))
    own = math.ceil(each / accumulate)
    sent = exchange(strategy, parameters, gpus, cluster)
    exchanges = accumulate if strategy == "fsdp" else 1  # it has no room to keep whole gradients
    each_pass = cost.per_batch + own * cost.per_image
    alone = max(1, math.ceil(effective / batch))  # batches that one GPU would accumulate
    graph = gpus == 1 if graph is None else graph
    return Prediction(
        preset, gpus, strategy, graph, own, accumulate,
        compute=cost(own, accumulate),
        exchange=sent,
        exchanges=exchanges,
        network=exchanges * sent.exposed(each_pass * (1 - cluster.backward), each_pass * cluster.backward),
        launches=0.0 if graph else accumulate * cost.launch,
        data=loading.seconds(own * accumulate, gpus, cluster),
        memory=fixed + own * image,
        too_large=min(batch, each) > most,
        ideal=gpus * alone * min(batch, effective) / cost(min(batch, effective), alone),
    )  # fmt: skip

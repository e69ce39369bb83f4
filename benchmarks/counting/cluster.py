"""The cluster that a prediction is for, and how long its GPUs take to exchange what they computed.

Every number of `Cluster` is an assumption with its source beside it: a datasheet, what somebody else published, or a
guess that says so. None was measured here.

Gradients travel in two passes, as NCCL does it on several rails: a reduce-scatter and an all-gather, each inside a node
over NVLink and between nodes over a network port a GPU. Of S bytes, on l GPUs a node and m nodes, a GPU sends
(l - 1) / l S over NVLink and (m - 1) / (m l) S over the network a pass, together (n - 1) / n S on n = m l GPUs: for an
all-reduce 2 (n - 1) / n S, as in a ring. The two parts of a pass follow each other.
"""

import math
from dataclasses import dataclass, field, fields

from benchmarks.counting.roofline import GPUS, Gpu


def assumed(value, unit: str, source: str):
    return field(default=value, metadata={"unit": unit, "source": source})


@dataclass(frozen=True)
class Cluster:
    gpu: Gpu = GPUS["H200"]
    gpus_per_node: int = assumed(8, "GPUs a node", "DGX and HGX H200")
    nvlink: float = assumed(450e9, "bytes/s a direction", "H200 datasheet: 900 GB/s in both")
    nvlink_share: float = assumed(0.8, "of that reached", "published nccl-tests of 8 H100 are 0.8 and more")
    nvlink_latency: float = assumed(2e-6, "s a hop", "a guess: tens of microseconds for a small all-reduce")
    network: float = assumed(50e9, "bytes/s a GPU", "a 400 Gb/s InfiniBand port a GPU, as in DGX H200")
    network_share: float = assumed(0.8, "of that reached", "a guess for a fabric shared with others")
    network_latency: float = assumed(8e-6, "s a level of a tree", "a guess")
    bucket: float = assumed(25 * 2**20, "bytes of gradients at once", "DistributedDataParallel's bucket_cap_mb")
    backward: float = assumed(2 / 3, "of a pass that hides an exchange", "two of a layer's three products are backward")
    memory_share: float = assumed(0.9, "of a GPU's memory", "a guess: the rest for CUDA, NCCL and fragments")
    cores_per_gpu: int = assumed(14, "CPU cores", "DGX H200: two processors of 56 cores for 8 GPUs")
    storage: float = assumed(10e9, "bytes/s read a node", "a guess for local NVMe; later epochs come from memory")
    jpeg: float = assumed(110e3, "bytes a picture", "ImageNet's training set: 138 GB, 1.28 million files")

    def local(self, gpus: int) -> int:
        """GPUs of a job that share a node."""
        return min(gpus, self.gpus_per_node)

    def nodes(self, gpus: int) -> float:
        return gpus / self.local(gpus)

    def memory(self) -> float:
        """Bytes that training may fill."""
        return self.memory_share * self.gpu.memory


def assumptions(cluster: Cluster) -> list[tuple[str, float, str, str]]:
    """-> (name, value, unit, source) of each."""
    return [(f.name, getattr(cluster, f.name), f.metadata["unit"], f.metadata["source"])
            for f in fields(cluster) if f.metadata]  # fmt: skip


@dataclass(frozen=True)
class Pass:
    """One pass over tensors: what a GPU sends over each kind of link, and how long it takes."""

    nvlink: float = 0.0
    network: float = 0.0
    seconds: float = 0.0
    buckets: int = 1

    @property
    def sent(self) -> float:
        return self.nvlink + self.network


def one_pass(size: float, gpus: int, cluster: Cluster) -> Pass:
    """A reduce-scatter or an all-gather of `size` bytes over all GPUs."""
    local, nodes = cluster.local(gpus), cluster.nodes(gpus)
    nvlink, network = (local - 1) / local * size, (nodes - 1) / (nodes * local) * size
    buckets = max(1, math.ceil(size / cluster.bucket))
    wait = (local - 1) * cluster.nvlink_latency + math.ceil(math.log2(nodes)) * cluster.network_latency
    busy = nvlink / (cluster.nvlink * cluster.nvlink_share) + network / (cluster.network * cluster.network_share)
    return Pass(nvlink, network, busy + buckets * wait, buckets)


@dataclass(frozen=True)
class Exchange:
    """What an update exchanges: passes that the forward pass hides, and passes that the backward pass hides."""

    forward: tuple[Pass, ...]
    backward: tuple[Pass, ...]

    @property
    def sent(self) -> float:
        return sum(one.sent for one in (*self.forward, *self.backward))

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in (*self.forward, *self.backward))

    def exposed(self, forward: float, backward: float) -> float:
        """Seconds that are not hidden, by passes of so many seconds. What is sent first or last finds nothing to hide
        behind: the first weights of a forward pass, the last gradients of a backward pass."""
        return sum(
            max(
                sum(one.seconds for one in passes) - hiding,
                max((one.seconds / one.buckets for one in passes), default=0),
            )
            for passes, hiding in ((self.forward, forward), (self.backward, backward))
        )


STRATEGIES = {
    "ddp": "float32 gradients, averaged in place",
    "ddp-bf16": "gradients rounded to bfloat16 on their way",
    "fsdp": "parameters and moments split over all; weights gathered and gradients reduced in float32",
}


def exchange(strategy: str, parameters: int, gpus: int, cluster: Cluster) -> Exchange:
    """What the ranks of a strategy exchange an update, of so many trained parameters."""
    if strategy == "fsdp":
        one = one_pass(4 * parameters, gpus, cluster)
        return Exchange((one,), (one, one))
    gradient = one_pass({"ddp": 4, "ddp-bf16": 2}[strategy] * parameters, gpus, cluster)
    return Exchange((), (gradient, gradient))

"""What a training step and loading cost on one GPU, fitted to what was measured under benchmarks/results."""

from functools import cache
from pathlib import Path

from benchmarks.counting import flops
from benchmarks.counting.roofline import parameters
from benchmarks.counting.scaling import Loading, StepCost
from benchmarks.harness.record import RESULTS, read
from benchmarks.reports.kernels import measured
from benchmarks.reports.results import results
from mae_fast.config import SIZES

MEASURED = RESULTS / "nvidia-h100-80gb-hbm3"
GRAPH, NO_GRAPH, OPTIMIZER = (
    ("ours", "ours CUDA graph"),
    ("ours, no CUDA graph", "ours compiled"),
    "AdamW, gradient norm",
)


@cache
def costs(folder: Path = MEASURED) -> dict[str, StepCost]:
    """What a step costs by preset. ValueError names what the folder lacks.

    A line through the smallest and the largest batch of the preset that has two parts its seconds into those of an
    image, of the optimizer (from its kernels), and a rest for each block, which the others are taken to have too. A
    preset that was not measured has the time an image of the largest one by its FLOPs, the optimizer by parameters.
    """
    steps = _seconds(folder, GRAPH)
    kernels = {preset: sums for (preset, _), sums in measured(folder).items()}
    pairs = {preset: batches for preset, batches in steps.items() if len(batches) > 1}
    if not pairs or not steps.keys() <= kernels.keys():
        raise ValueError(f"{folder}: expected steps of one preset at two batch sizes, and kernels of every preset")
    two = next(iter(pairs))
    (few, short), (many, long) = min(pairs[two].items()), max(pairs[two].items())
    update = {preset: sums[OPTIMIZER][0] for preset, sums in kernels.items()}
    launches = {preset: sum(number for _, number in sums.values()) for preset, sums in kernels.items()}
    image = (long - short) / (many - few)
    per_block = (short - few * image - update[two]) / blocks(two)
    slow, host = next(iter(_seconds(folder, NO_GRAPH).items()))
    launch = min(host.values()) / launches[slow]

    found = {}
    for preset, batches in steps.items():
        batch, seconds = max(batches.items())
        rest = blocks(preset) * per_block
        own = (seconds - rest - update[preset]) / batch
        of = f"measured at batch {' and '.join(map(str, sorted(batches)))}"
        found[preset] = StepCost(own, rest, update[preset], launches[preset] * launch, of)
    largest, smallest = max(steps, key=blocks), min(steps, key=blocks)
    for preset in SIZES.keys() - steps.keys():
        more = _work(preset) / _work(largest), parameters(SIZES[preset]) / parameters(SIZES[largest])
        slope = (launches[largest] - launches[smallest]) / (blocks(largest) - blocks(smallest))
        number = launches[largest] + slope * (blocks(preset) - blocks(largest))
        one, rest = found[largest], blocks(preset) * per_block
        found[preset] = StepCost(one.per_image * more[0], rest, one.per_update * more[1], number * launch,
                                 f"estimated from {largest}")  # fmt: skip
    return found


def _seconds(folder: Path, sides: tuple[str, ...]) -> dict[str, dict[int, float]]:
    """{preset: {batch: seconds a step}} of the first of these sides that was measured."""
    rows = [row for row in results(folder, "turns") if row.get("median_s") and row["dtype"] == "bf16"]
    for side in sides:
        found: dict[str, dict[int, float]] = {}
        for row in rows:
            if row["side"] == side:
                found.setdefault(row["preset"], {})[row["batch"]] = row["median_s"]
        if found:
            return found
    raise ValueError(f"{folder}: no turns*.json with a step of {' or '.join(sides)}")


def _work(preset: str) -> float:
    return sum(product.flops for product in flops.products(SIZES[preset], 1))


def blocks(preset: str) -> int:
    return SIZES[preset].depth + SIZES[preset].decoder_depth


def loading(folder: Path = MEASURED) -> Loading:
    """The fastest loader of ours, and the cores that it had."""
    rates = [row["images_per_s"] for row in results(folder, "data") if row["side"].startswith("ours")]
    if not rates:
        raise ValueError(f"{folder}: no data.json with a loader of ours")
    return Loading(max(rates), read(folder / "data.json")["facts"]["CPUs"])

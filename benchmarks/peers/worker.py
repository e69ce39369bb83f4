"""One side of `mae-fast bench turns`, in a process of its own.

    python -m benchmarks.peers.worker '{"side": {"name": ..., "peer": ..., ...}, "preset": "base", "batch": 256, ...}'

It builds the side, compiles it, holds its loss and every gradient to the parity rule and says {"ready": seconds, ...},
or {"error": why}. Then it answers {"begin": n} with its first n losses and their peak memory, {"go": n} with the
seconds of n steps and {"profile": n} with their kernels (benchmarks.harness.processes). Between its turns it keeps no
memory that it can give back. A CUDA graph, which keeps its own, is captured in "begin": all can compile at once.
`crowded` beside an error: the device's memory was full, so that the side may be tried again with fewer beside it.
"""

import ctypes
import gc
import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

import mae_fast
from benchmarks.counting import flops, products
from benchmarks.harness.processes import commands
from benchmarks.harness.record import reason
from benchmarks.harness.side_by_side import draw_images, gate_of, hold
from benchmarks.peers.sides import ALONE, OurSide, Side, Spec, build
from mae_fast.config import DTYPES, SIZES
from mae_fast.train.heap import keep_freed_memory

UNTIMED = {"cuda": 2, "cpu": 0}  # steps at the start of a turn: memory that was given back is asked for again


class Memory:
    """The peak of this process on a device, in bytes; on a CPU past what it held before."""

    def __init__(self, device: str):
        self.device, self.before = device, self._status("VmRSS")

    @staticmethod
    def _status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    def give_back(self) -> None:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
        else:
            with suppress(OSError, AttributeError):  # not glibc
                ctypes.CDLL(None).malloc_trim(0)

    def start(self) -> None:
        """Count from here."""
        self.give_back()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            with suppress(OSError):  # a kernel without it: then the peak since the process began
                Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        with suppress(StopIteration):
            return self._status("VmHWM") - self.before
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self.before


def prepare(work: dict, memory: Memory) -> tuple[Callable[[], object], Callable[[int], dict], dict]:
    """-> (a step, what to do before the first turn and what that tells, what to say of it now).

    RuntimeError where it may not be timed.
    """
    spec, preset = Spec(**work["side"]), SIZES[work["preset"]]
    batch, size, device = work["batch"], work["img_size"], work["device"]
    if spec.name == ALONE:
        calls = products.run_alone(flops.products(preset, batch, img_size=size), device, DTYPES[spec.dtype])
        calls()
        return calls, lambda n: {}, {}
    kwargs = preset.kwargs() | {"img_size": size, "norm_pix_loss": True}
    torch.manual_seed(0)
    state = mae_fast.MaskedAutoencoderViT(**kwargs).to(device).state_dict()
    official = Path(work["official"]) if work["official"] else None
    built, absent = build([spec], state, kwargs, device, official)
    if absent:
        raise RuntimeError(absent[spec].removeprefix("not run: "))
    side = built[spec]
    torch.manual_seed(1)  # whatever building it drew
    (imgs,) = draw_images(batch, size, device)
    gate = gate_of(state, kwargs, imgs, {side.dtype})
    errors, why = hold(gate, side.dtype, side.forward_backward, side.gradients, side.clear)
    side.clear()
    if why:
        raise RuntimeError(why)

    def begin(n: int) -> dict:
        memory.start()
        if device == "cpu":
            keep_freed_memory()  # not before: the gate's is to be given back
        torch.manual_seed(0)  # the same weights and images for all, and masks but for a captured graph's
        losses = [float(side.step(imgs)) for _ in range(n)]
        return {"losses": losses, "bytes": memory.peak(), "runs": _runs(spec, side, device)}

    parameters = sum(p.numel() for p in side.peer.model.parameters() if p.requires_grad)
    said = {"parameters": parameters, "error_of_loss": errors.loss, "error_of_gradient": errors.gradient}
    return lambda: side.step(imgs), begin, said


def _runs(spec: Spec, side: Side, device: str) -> str:
    """How a side runs in fact. MemoryError: ours fell back from its choices on CUDA, most likely for want of memory."""
    if not isinstance(side, OurSide):
        return " ".join(["compiled", spec.mode or ""]).strip() if spec.compiled else "eager"
    wanted = {"no compile": "eager", "no CUDA graph": "compiled"}.get(spec.undone, "compiled, one CUDA graph")
    if device == "cuda" and side.runs != wanted:
        raise MemoryError(f"expected {wanted}, runs {side.runs}: the log says why")
    return side.runs


def timed(step: Callable[[], object], n: int, device: str) -> dict:
    """Seconds of n steps, each on the device's clock, and of one on the host's with nothing waited for in between."""
    for _ in range(UNTIMED[device]):
        step()
    if device == "cpu":
        marks = [time.perf_counter()]
        for _ in range(n):
            step()
            marks.append(time.perf_counter())
        return {
            "seconds": [b - a for a, b in pairwise(marks)],
            "wall_s": (marks[-1] - marks[0]) / n,
        }
    torch.cuda.synchronize()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(n + 1)]
    began = time.perf_counter()
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    wall = (time.perf_counter() - began) / n
    return {"seconds": [a.elapsed_time(b) / 1e3 for a, b in pairwise(events)], "wall_s": wall}


def profiled(step: Callable[[], object], n: int, device: str) -> dict:
    """[name, launches a step, seconds a step] of the kernels of n steps, the longest first; on a CPU of ATen's ops."""
    step()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profile(activities=activities) as seen:
        for _ in range(n):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
    found: dict[str, list[float]] = {}
    for event in seen.events():
        on_device = str(event.device_type).endswith("CUDA")
        if on_device != (device == "cuda") or event.is_user_annotation:  # a name for several kernels
            continue
        taken = found.setdefault(event.name, [0, 0.0])
        taken[0] += 1 / n
        taken[1] += (event.time_range.elapsed_us() if on_device else event.self_cpu_time_total) / 1e6 / n
    return {"kernels": sorted(([name, *taken] for name, taken in found.items()), key=lambda kernel: -kernel[2])}


TOLD = {"go": timed, "profile": profiled}


def crowded(error: BaseException | None) -> bool:
    """Whether it was for want of memory, also where somebody raised something else because of that."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def main(work: dict) -> None:
    began, (say, asked) = time.monotonic(), commands()
    memory = Memory(work["device"])
    try:
        # Compiled code then draws the numbers of eager code, and so the masks that the gate expects.
        with torch._inductor.config.patch(fallback_random=True):
            step, begin, said = prepare(work, memory)
            memory.give_back()
            say(ready=time.monotonic() - began, **said)
            for command in asked:
                ((what, n),) = command.items()
                answer = begin(n) if what == "begin" else TOLD[what](step, n, work["device"])
                memory.give_back()
                say(**answer)
    except Exception as error:  # whatever a side raises is its answer
        say(error=str(error) if type(error) is RuntimeError else reason(error), crowded=crowded(error))
        raise  # the log has it whole


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

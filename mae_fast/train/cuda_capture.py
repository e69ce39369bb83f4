"""Capturing on a CUDA device: what a function launches, as one graph; and what a failed capture leaves, put right."""

import contextlib
import functools
from collections.abc import Callable

import torch

_FAILED: list[torch.cuda.CUDAGraph] = []  # PyTorch's allocators keep pointers to them


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures of a process: cuBLAS keeps a workspace for each stream that it has met."""
    return torch.cuda.Stream(device)


class CudaCapture:
    """Captures what functions launch on one device; all captures share one pool of memory.

    Warm-up and capture share a side stream: a capture needs one that is not the default, libraries then have their
    handles and workspaces for it, and the nodes that add up gradients run on the stream on which they were made.
    """

    def __init__(self, device: torch.device):
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self.stream = _side_stream(self.device)
        self.pool = torch.cuda.graph_pool_handle()

    def run(self, function: Callable[[], object]) -> None:
        """Call it on the stream of captures, in order with the current stream."""
        with torch.cuda.device(self.device):
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                function()
            torch.cuda.current_stream().wait_stream(self.stream)

    def capture(self, function: Callable[[], object]) -> Callable[[], None]:
        """-> what launches again, with one launch, all that the function launches; nothing runs yet.

        Random numbers: a capture registers the device's default generator, and each replay hands the seed and the
        offset of the moment to the kernels and moves the offset on. So masks differ from replay to replay, and the
        generator's state is what it would be without a graph.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            before = torch.cuda.current_stream()
            try:
                # thread_local: what the threads of a loader do meanwhile cannot break the capture.
                with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                    function()
            except RuntimeError:
                self._tidy(graph, before)
                raise
        return graph.replay

    def _tidy(self, graph: torch.cuda.CUDAGraph, before: torch.cuda.Stream) -> None:
        """Undo what torch.cuda.graph leaves where ending the capture fails as well, as it does after any CUDA error."""
        torch.cuda.set_stream(before)  # the side stream is still the current one
        index = self.device.index
        try:
            torch.rand((), device=self.device)
        except RuntimeError:
            # Up to PyTorch 2.12 it still counts as captured, and says "Offset increment outside graph capture".
            generator, unmarked = torch.cuda.default_generators[index], torch.Generator(self.device)
            unmarked.set_state(generator.get_state())
            generator.graphsafe_set_state(unmarked)
        # The allocator still serves the pool, and would keep its memory. RuntimeError: the capture did end.
        with contextlib.suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(index, self.pool)
            torch._C._cuda_releasePool(index, self.pool)
        graph.reset()
        _FAILED.append(graph)
        torch.cuda.empty_cache()

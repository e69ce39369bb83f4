"""Every Triton kernel compiled ahead of time, on a machine with no GPU and no driver, and what came out.

    python -m benchmarks.aot [--targets 80,90,100] [--match REGEX] [--json FILE]

The launchers themselves run, on tensors of device "meta", so that blocks, warps, divisibility and constants are those
of a real launch; a stand-in driver names the target and nothing is launched. One row a kernel, case and target:
registers and spilled bytes a thread, shared memory of a program, widest global load and store (bytes a thread and
instruction), tensor-core instructions (none in float32, which is multiplied as such). Bytes read and written by one
thread in one instruction should be 16.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes a program can have


def cases():
    """(name, launch) for the shipped models: patches of 16 (Small, Base, Large) and of 14 (Huge), batch 64."""
    from mae_fast import ops
    from mae_fast.parity.cases import MODULES

    for module in MODULES.values():
        for name, op, args in getattr(module, "launches", tuple)():
            yield name, partial(ops.TRITON[op], *args)


class Target:
    """Stands in for the CUDA driver: names a target, launches nothing."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self):
        return self.capability  # Triton keeps its compiled kernels by device

    def get_current_stream(self, device):
        return 0


def widest(ptx: str, what: str) -> int:
    """Bytes of the widest global access ("ld" or "st") in PTX, leaving out the 64-bit words, which are ids."""
    found = re.findall(rf"\b{what}\.global(?:\.[a-zA-Z_0-9:]+?)*?(?:\.v(\d))?\.[bfus](8|16|32)\b", ptx)
    bytes = [int(n or 1) * int(bits) // 8 for n, bits in found]
    if what == "ld":  # pipelined loads go to shared memory
        copies = re.findall(r"\bcp\.async\.c[ag]\.shared\.global .*?\], (0x[0-9a-f]+|\d+)", ptx)
        bytes += [int(size, 0) for size in copies]
    return max(bytes, default=0)


def resources(cubin: bytes) -> tuple[int, int]:
    """-> (registers, bytes of stack and local memory, which only spills use here) of a thread."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        out = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    usage = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", out.stdout)}
    return usage["REG"], usage["STACK"] + usage["LOCAL"]


def compile_all(targets: list[int], match: str) -> list[dict]:
    """One row a kernel, case and target; the cases whose name begins as `match`, a regular expression, says."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    rows, compiled, run = [], [], JITFunction.run

    def compile_only(self, *args, warmup, **kwargs):
        compiled.append(run(self, *args, warmup=True, **kwargs))

    JITFunction.run = compile_only
    try:
        for target in targets:
            driver.set_active(Target(target))
            for case, launch in cases():
                if not re.match(match, case):
                    continue
                compiled.clear()
                launch()
                for kernel in compiled:
                    ptx = kernel.asm["ptx"]
                    registers, spilled = resources(kernel.asm["cubin"])
                    tensor_core = set(re.findall(r"\b(wgmma\.mma_async|mma\.sync|tcgen05\.mma)", ptx))
                    rows.append({
                        "target": target,
                        "kernel": kernel.metadata.name,
                        "case": case,
                        "warps": kernel.metadata.num_warps,
                        "registers": registers,
                        "spilled": spilled,
                        "shared": kernel.metadata.shared,
                        "load": widest(ptx, "ld"),
                        "store": widest(ptx, "st"),
                        "tensor_core": ", ".join(sorted(tensor_core)),
                    })  # fmt: skip
    finally:
        JITFunction.run = run
    return rows


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aot", description=__doc__.split("\n")[0])
    parser.add_argument("--targets", default="80,90,100", help="compute capabilities times ten")
    parser.add_argument("--match", default="", metavar="REGEX", help="only cases whose name begins so")
    parser.add_argument("--json", help="also write the rows to this file")
    options = parser.parse_args(argv)
    if os.environ.get("TRITON_INTERPRET", "0") != "0":  # decided for good when triton is imported
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        return subprocess.run([sys.executable, "-m", "benchmarks.aot", *argv], env=environment).returncode

    rows = compile_all([int(t) for t in options.targets.split(",")], options.match)
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]}
    for row in [dict(zip(widths, widths, strict=True)), *rows]:
        print("  ".join(str(row[key]).ljust(width) for key, width in widths.items()).rstrip())
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

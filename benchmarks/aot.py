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
from pathlib import Path

from mae_fast.config import dtype_name

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes a program can have


def cases():
    """(name, launch) for the shipped models: patches of 16 (Small, Base, Large) and of 14 (Huge), batch 64."""
    import torch
    from mae_fast_kernels import attention, gather_patches, masked_mse, random_masking, unshuffle

    def empty(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

    bf16, u8, i64, B = torch.bfloat16, torch.uint8, torch.int64, 64
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for L in (196, 256, 4096):
        yield f"L={L}", lambda L=L: random_masking.random_masking(empty(B, L), L // 4)

    for p, L in ((16, 196), (14, 256)):
        masked, P = L - L // 4, p * p * 3
        kept_ids, masked_ids = empty(B, L // 4, dtype=i64), empty(B, masked, dtype=i64)
        images = {
            "uint8 NHWC": empty(B, 224, 224, 3, dtype=u8),
            "float32 NCHW": empty(B, 3, 224, 224),
            "float32 channels_last": empty(B, 224, 224, 3).permute(0, 3, 1, 2),
        }
        for layout, imgs in images.items():
            for dtype in (bf16, torch.float32):
                name, pred = f"p={p} {layout}, {dtype_name(dtype)}", empty(B, masked, P, dtype=dtype)
                args = imgs, kept_ids, p, mean, std, dtype
                yield name, lambda a=args: gather_patches.gather_patches(*a)
                args = pred, imgs, masked_ids, p, mean, std, True, True
                yield name, lambda a=args: masked_mse.masked_mse(*a)
        args = empty(B, L // 4, P, dtype=bf16), kept_ids, p, (B, 3, 224, 224), torch.float32
        yield f"p={p} bfloat16", lambda a=args: gather_patches.gather_patches_backward(*a)
        for rows in (masked, L):
            args = empty(B, masked, P, dtype=bf16), masked_ids, empty(), rows
            yield f"p={p} bfloat16, {rows} rows", lambda a=args: masked_mse.masked_mse_backward(*a)

    L, N, restore = 196, 50, empty(B, 196, dtype=i64)
    for D in (512, 768):
        for tokens, pos in ((bf16, torch.float32), (bf16, bf16)):
            name = f"D={D} {dtype_name(tokens)} tokens, {dtype_name(pos)} positions"
            args = empty(B, N, D, dtype=tokens), empty(1, 1, D), empty(1, 1 + L, D, dtype=pos), restore
            yield name, lambda a=args: unshuffle.unshuffle(*a)
            args = empty(B, 1 + L, D, dtype=torch.promote_types(tokens, pos)), restore, N, tokens, True, pos != bf16
            yield name, lambda a=args: unshuffle.unshuffle_backward(*a)

    fp16, fp32 = torch.float16, torch.float32
    heads = (50, 64), (50, 80), (65, 64), (65, 80), (197, 32), (197, 64), (257, 32), (257, 80)
    more = (50, 64, fp16), (50, 64, fp32), (197, 32, fp32), (257, 80, fp32)
    for N, Dh, dtype in (*((N, Dh, bf16) for N, Dh in heads), *more):
        name, H = f"N={N} Dh={Dh} {dtype_name(dtype)}", 16
        qkv, out, lse = empty(B, N, 3, H, Dh, dtype=dtype), empty(B, N, H * Dh, dtype=dtype), empty(B, H, N)
        yield name, lambda a=qkv: attention.attention(a)
        yield name, lambda a=(out, qkv, out, lse): attention.attention_backward(*a)


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
    return max((int(n or 1) * int(bits) // 8 for n, bits in found), default=0)


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

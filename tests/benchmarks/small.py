"""Benchmarks of a toy size."""

import json

from benchmarks.__main__ import main
from benchmarks.harness import record
from mae_fast import config

TINY = config.Preset(
    patch_size=8, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2
)


QUICK = ["--device", "cpu", "--quick"]


def bench(*argv):
    return main([*argv])


def ops_rows(folder, *flags):
    assert bench("ops", *QUICK, "--rounds", "9", "--out", str(folder), "--sides", "ours", *flags) == 0
    return record.read(folder / "ops_tiny.json")["rows"]


def result(file, **seconds):
    rows = [{"part": "ops", "side": side, "seconds": taken} for side, taken in seconds.items()]
    file.write_text(json.dumps({"facts": {}, "rows": rows}))
    return str(file)

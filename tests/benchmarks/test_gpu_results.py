"""Tables and pictures of a GPU's results: steps in turns, kernels beside the least possible, shares of limits."""

import json

import pytest

from benchmarks.counting import kernels as counted
from benchmarks.harness import record
from benchmarks.reports import kernels, plots, shares, tables
from benchmarks.reports.results import is_ours, results, turns

H100 = record.RESULTS / "nvidia-h100-80gb-hbm3"
FACTS = {"device": "G", "driver": "1", "cpu": "C", "threads": 2, "instruction sets": [], "torch": "2", "packages": {},
         "commit": "0123456789", "clean": True, "date": "2027-01-02 03:04 +0000"}  # fmt: skip


def turn(side, rate, batch=256, dtype="bf16"):
    return {"part": "turns", "preset": "base", "batch": batch, "dtype": dtype, "side": side, "note": "",
            "median_s": batch / rate, "images_per_s": rate}  # fmt: skip


def test_steps_in_turns_as_the_part_writes_them(tmp_path):
    late = {"part": "turns", "preset": "base", "batch": 256, "dtype": "bf16", "side": "late", "note": "not run: late"}
    rows = [
        turn("ours", 600),
        turn("ours, no compile", 300),
        turn("official SDPA reduce-overhead", 400),
        turn("official as shipped", 100, dtype="fp16"),
        turn("somebody new", 500),
        turn("products alone", 900),
        late,
    ]
    files = {"base": rows, "base_64": [turn("ours", 50, 64), turn("official as shipped", 20, 64)],
             "base_128": [turn("ours", 70, 128)]}  # fmt: skip
    for name, measured in files.items():
        record.Record(tmp_path / f"turns_{name}.json", FACTS).add(measured)
    assert list(turns(tmp_path)) == [("base", 256), ("base", 64)]  # 128 has no peer beside it
    text = tables.TABLES["turns"](tmp_path)
    assert "| **mae_fast, bf16, as by default** | **600** | **50** |\n| mae_fast over the best" in text
    assert "| 1.20 x | 2.50 x |" in text and "| somebody new, bf16 | 500 |  |" in text
    assert "alone" not in text and "late" not in text
    assert "G, driver 1; torch 2; 2027-01-02, commit 0123456; medians" in text
    assert [file.name for file in plots.draw_all(tmp_path)] == ["throughput.svg"]


@pytest.mark.parametrize(
    "name, purpose",
    {
        "nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_bias_TNT": "matrix products",
        "void cublasLt::splitKreduce_kernel<32, 16>": "matrix products",
        "_attention_fwd_kernel": "attention, forward",
        "_attention_blocked_bwd_kernel": "attention, backward",
        "triton_poi_fused_attention_backward_slice_backward_view_5": "bias sums, casts, copies",
        "triton_poi_fused__to_copy__unsafe_view_add_gelu_9": "GELU, forward",
        "triton_red_fused__to_copy__unsafe_view_add_gelu_gelu_backward_sum_view_23": "GELU, backward",
        "_bias_gelu_bwd_kernel": "GELU, backward",
        "_add_layer_norm_fwd_kernel": "addition and norm",
        "_masked_mse_bwd_kernel": "masking, patches, loss",
        "void at::native::lpnorm_cleanup<float>": "AdamW, gradient norm",
        "void at::native::multi_tensor_apply_kernel<FusedAdam>": "AdamW, gradient norm",
        "fmha_cutlassF_bf16_aligned_64x64_rf_sm80": "attention, forward",
        "pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel": "attention, backward",
        "aten::addmm": "matrix products",
        "aten::comment": "bias sums, casts, copies",
        "Memset (Unknown)": "bias sums, casts, copies",
    }.items(),
)
def test_what_a_kernel_is_for(name, purpose):
    assert counted.purpose(name) == purpose


def test_a_measured_step_takes_no_less_than_the_least_possible():
    stacks = list(kernels.bars(H100).values())
    assert stacks
    for step, least in zip(stacks[::2], stacks[1::2], strict=True):
        assert all(0 < least[name] <= step[name] for name in kernels.PURPOSES)


def test_no_kernel_is_lost():
    rows = results(H100, "kernels")
    total = sum(seconds for step in kernels.measured(H100).values() for seconds, _ in step.values())
    assert total == pytest.approx(sum(row["kernel_s"] for row in rows if is_ours(row["side"])))


def test_a_limit_that_somebody_beats_is_none(tmp_path):
    row = {"part": "ops", "preset": "base", "batch": 1, "dtype": "bf16", "pass": "forward", "least_MB": 10.0}

    def timed(op, side, seconds, limit, runs):
        return row | {"op": op, "side": side, "seconds": [seconds], "median_s": seconds, "limit_s": limit,
                      "of_limit": limit / seconds, "runs": runs}  # fmt: skip

    rows = [
        timed("attention", "ours", 2e-3, 4e-3, "triton"),
        timed("attention", "reference compiled", 5e-3, 4e-3, ""),
        timed("gelu", "ours", 4e-3, 1e-3, "reference"),
        timed("gelu", "reference compiled", 2e-3, 1e-3, ""),
    ]
    record.Record(tmp_path / "ops_base.json", FACTS | {"copy GB/s": 10.0}).add(rows)
    found = shares.shares(tmp_path)
    assert found["attention, forward"] == {"ours": (2e-3, 0.5), "reference compiled": (5e-3, 0.2)}
    assert found["gelu, forward"] == {"reference compiled": (2e-3, 0.5)}


def test_the_committed_results_say_where_they_are_from_and_are_drawn(tmp_path):
    for file in H100.glob("*.json"):
        facts = record.read(file)["facts"]
        assert facts["device"] == "NVIDIA H100 80GB HBM3" and facts["driver"] and len(facts["commit"]) == 40
        assert "/root" not in json.dumps(facts)  # a path of the machine that was measured
        (tmp_path / file.name).write_text(file.read_text())
    assert {"throughput.svg", "kernels.svg", "limits.svg"} <= {file.name for file in plots.draw_all(tmp_path)}

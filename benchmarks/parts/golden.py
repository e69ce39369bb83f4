"""The model on this device beside the numbers that the official code computed in float64 (tests/model).

    mae-fast bench golden

In float32, for two small models: loss, some predictions, the norm of the latent tokens and of every gradient. Nothing
is timed.
"""

import torch

import mae_fast
from benchmarks.harness import table
from benchmarks.harness.options import Options

ALLOWED = 1e-5  # of the largest number of its kind


def errors(case: dict, device: str) -> dict[str, float]:
    """{result: largest difference, as a share of the largest number}."""
    from tests.model.test_official_numbers import fill, filled

    model = filled(mae_fast.MaskedAutoencoderViT(**case["config"]).double()).float().to(device)
    side, patches = case["config"]["img_size"], len(case["ids_restore"][0])
    imgs, noise = torch.empty(2, 3, side, side), torch.empty(2, patches, dtype=torch.float64)
    fill(imgs, 5, 2.0)
    fill(noise, 3, 1.0)
    imgs, noise = imgs.to(device), noise.to(device)
    loss, pred, _ = model(imgs, case["mask_ratio"], noise)
    loss.backward()
    latent, _, ids_restore = model.forward_encoder(imgs, case["mask_ratio"], noise)
    names = list(case["gradient_norms"])
    gradients = dict(model.named_parameters())

    def off(ours: list[float], theirs: list[float]) -> float:
        return max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / max(map(abs, theirs))

    return {
        "loss": off([loss.item()], [case["loss"]]),
        "predictions": off(pred[:, ::5, ::29].flatten().tolist(), case["pred"]),
        "latent": off([latent.norm().item()], [case["latent_norm"]]),
        "gradients": off([gradients[name].grad.norm().item() for name in names], [*case["gradient_norms"].values()]),
        "ids_restore": float(ids_restore.tolist() != case["ids_restore"]),
    }


COLUMNS = {
    "case": lambda row: row["shape"],
    "result": lambda row: row["op"],
    "error": lambda row: f"{row['error']:.1e}",
    "holds": lambda row: str(row["holds"]),
}


def run(options: Options) -> int:
    """1 where a number does not hold."""
    from tests.model.test_official_numbers import CASES

    torch.backends.cudnn.allow_tf32 = False  # or a convolution would not be float32
    record = options.record("golden")
    for case in CASES:
        record.add([
            {"part": "golden", "shape": case["name"], "dtype": "fp32", "op": result, "error": error,
             "holds": error <= ALLOWED}
            for result, error in errors(case, options.device).items()
        ])  # fmt: skip
    print(table.screen(record.rows, COLUMNS))
    return 0 if all(row["holds"] for row in record.rows) else 1

"""The steps of `mae-fast bench gpu-report`, in order: what each runs, and how much of the time it may have."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    name: str
    share: float  # of the whole time, at most twice that, beside those of the steps still to come
    command: list[str]  # after `mae-fast`
    paced: bool = True  # takes --seconds
    first: bool = False  # is what a few minutes are for
    least: float = 1  # seconds with which it is worth beginning
    results: str = ""  # the file whose rows say what they had no time for


def steps(device: str, quick: bool, official: Path | None, out: Path) -> list[Step]:
    """What matters most first."""
    base = "tiny" if quick else "base"
    peers = ["--official", str(official.resolve())] if official else []
    common = ["--device", device, "--out", str(out), *(["--quick"] if quick else [])]
    fewer = {  # sides and steps, of a toy run
        "turns": ["--sides", "ours bf16,as shipped,Hugging Face compiled"],
        "curve": ["--steps", "5"],
        "scaling": ["--batch", "4"],
    }
    fewer = fewer if quick else {}
    again = ["--batch", "2", "--sides", "ours bf16,as shipped"] if quick else ["--batch", "64"]
    seeds = [] if quick else ["--seeds", "3", "--preset", "small"]

    def bench(part: str, share: float, preset: str = "", *flags: str, name: str = "", least: float = 20, **how) -> Step:
        flags = [*common, *(["--presets", preset] if preset else []), *fewer.get(part, []), *flags]
        alone = part in ("limits", "golden", "attention", "data")  # a file for all presets
        file = part if alone else f"{part}_{name or preset}".replace(" ", "_")
        return Step(f"{part} {name or preset}".strip(), share, ["bench", part, *flags],
                    least=1 if quick else least, results=f"{file}.json", **how)  # fmt: skip

    def other(name: str, share: float, *command: str, least: float, first: bool = False) -> Step:
        flags = ["--device", device, "--json", str(out / f"{name}.json"), *fewer.get(name, [])]
        return Step(name, share, [*command, *flags], paced=False, first=first, least=1 if quick else least)

    # Compiling takes most of the time of turns, however little there is; what they do not use goes to those after them.
    def turns(preset: str, share: float, *flags: str, **how) -> Step:
        return bench("turns", share, preset, *peers, *flags, least=90, **how)

    return [
        bench("limits", 1.5, base, least=30, first=True),
        other("parity", 3.5, "parity", "--preset", base, least=30, first=True),
        bench("golden", 1, least=15, first=True),
        bench("blocks", 2, base),
        turns(base, 8, first=True),
        *([] if quick else [turns("small", 5), turns("large", 6)]),
        turns(base, 4, *again, name=f"{base} {again[1]}"),
        bench("attention", 1),
        bench("ops", 1, base),
        bench("data", 0.5),
        other("curve", 1, "parity", "curve", *seeds, "--picture", str(out / "curve.svg"), least=30),
        bench("waterfall", 1, base),
        bench("scaling", 0.5, base),
    ]

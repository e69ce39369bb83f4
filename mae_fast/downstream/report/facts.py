"""What a run's folder tells: log.txt, run.jsonl and the pictures kept beside them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mae_fast.train.journal import read_journal
from mae_fast.train.report import read_log

OFFICIAL = ("epoch", "train_loss", "train_lr", "n_parameters")
# Of what a start tells. The files may be a stranger's: what is of another kind is left out.
KINDS = {"model": str, "parameters": int, "images": int, "device": str, "step": str, "settings": dict,
         "versions": dict, "changed": list}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """epochs: the lines of log.txt; events: those of run.jsonl (mae_fast.train.journal). Both oldest first."""

    folder: Path
    epochs: list[dict]
    events: list[dict]

    def of(self, event: str) -> list[dict]:
        return [entry for entry in self.events if entry["event"] == event]

    @cached_property
    def start(self) -> dict:
        """The last start, empty where none was noted."""
        last = (self.of("start") or [{}])[-1]
        return {key: value for key, value in last.items() if isinstance(value, KINDS.get(key, object))}

    def column(self, key: str) -> list[tuple[float, float]]:
        """(epoch from 1, value) of each epoch that has the key."""
        return [(entry["epoch"] + 1, entry[key]) for entry in self.epochs if is_number(entry.get(key))]

    @cached_property
    def keys(self) -> list[str]:
        """Of numbers in log.txt besides the official ones, in the order in which they came."""
        found = dict.fromkeys(key for entry in self.epochs for key, value in entry.items() if is_number(value))
        return [key for key in found if key not in OFFICIAL]

    @cached_property
    def losses(self) -> list[str]:
        return [key for key in self.keys if "loss" in key]

    @cached_property
    def accuracies(self) -> list[str]:
        words = ("acc", "knn", "probe", "linear", "top1", "top5", "auroc")
        return [key for key in self.keys if key not in self.losses and any(word in key.lower() for word in words)]

    @cached_property
    def timed(self) -> list[dict]:
        """Epochs whose images and seconds are known, those computed twice included."""
        keys = ("epoch", "seconds", "images")
        epochs = [entry for entry in self.of("epoch") if all(is_number(entry.get(key)) for key in keys)]
        return [entry for entry in epochs if entry["seconds"] > 0]

    @cached_property
    def seconds(self) -> float:
        return sum(entry["seconds"] for entry in self.timed)

    @cached_property
    def rate(self) -> float | None:
        """Images a second over all timed epochs."""
        return sum(entry["images"] for entry in self.timed) / self.seconds if self.timed else None

    @cached_property
    def state(self) -> str:
        """Whether the run is complete, and what ended it where not."""
        if not self.events:
            return "not known"
        last = next(entry for entry in reversed(self.events) if entry["event"] in ("start", "end", "epoch"))
        if last["event"] != "end":
            return "at work, or killed without a word"
        return "complete" if last.get("complete") else f"stopped: {last.get('text')}"

    @cached_property
    def faults(self) -> list[tuple[str, str]]:
        """(when, what) of all that went wrong or began again, oldest first; the time in words of a person."""
        found, ended = [], True
        for entry in self.events:
            kind, text = entry["event"], None
            if kind == "start":
                if not ended:
                    found.append((entry, "the process before this one left no word of its end: it was killed"))
                source = entry.get("resumed_from")
                text = f"went on from {source}{at_epoch(entry)}" if source else None
                if text is None and entry is not self.of("start")[0]:
                    text = "started anew, as there was no checkpoint yet"
            elif kind == "end" and not entry.get("complete"):
                text = f"stopped: {entry.get('text')}"
            elif kind == "fault":
                text = str(entry.get("text"))
            elif kind == "bad_images":
                text = f"bad image skipped: {entry.get('name')} ({entry.get('reason')})"
            if text:
                found.append((entry, text))
            ended = kind == "end" if kind in ("start", "end") else ended
        return [(entry.get("time"), text) for entry, text in found]

    @cached_property
    def skipped_steps(self) -> int:
        return int(self._counts("skipped")[-1])

    @cached_property
    def bad_images(self) -> int:
        return int(max(self._counts("bad_images")))

    def _counts(self, key: str) -> list[float]:
        return [0, *(entry[key] for entry in self.of("epoch") if is_number(entry.get(key)))]

    def reconstructions(self) -> list[tuple[int, Path]]:
        """(epoch from 1, file) of the pictures kept, without those of an earlier run in the same folder."""
        noted = [entry.get("epoch") for entry in self.of("pictures")]
        found = []
        for path in (self.folder / "reconstructions").glob("epoch-*.png"):
            number = path.stem.removeprefix("epoch-")
            if number.isdecimal() and (int(number) in noted or not self.events):
                found.append((int(number) + 1, path))
        return sorted(found)


def read_facts(folder: Path) -> Facts:
    """Raises FileNotFoundError where the folder is none or holds neither log.txt nor run.jsonl."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give the output_dir of a run")
    epochs = {entry["epoch"]: entry for entry in read_log(folder / "log.txt") if is_number(entry["epoch"])}
    events = [entry for entry in read_journal(folder) if is_number(entry.get("time")) and 0 <= entry["time"] < 1e11]
    if not epochs and not events:
        raise FileNotFoundError(f"{folder}: no epoch in log.txt and no run.jsonl; give the output_dir of a run")
    return Facts(folder, list(epochs.values()), events)


def at_epoch(entry: dict) -> str:
    return f", at epoch {entry['epoch'] + 1:.4g}" if is_number(entry.get("epoch")) else ""


def is_number(value) -> bool:
    """Whether it is one that can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30  # not NaN either

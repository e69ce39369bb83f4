"""Checkpoints by their name on the Hugging Face hub, such as facebook/vit-mae-base."""

import re
from pathlib import Path


def is_name(source: str) -> bool:
    """Whether source, which is no file here, can be a name on the hub: owner/model, and not a file's."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source)) and not source.endswith(
        (".pth", ".pt", ".bin", ".safetensors")
    )


def download(name: str) -> Path:
    """-> the folder of a model on the hub, from the local cache where it is there; else it is downloaded.

    Raises ImportError without huggingface_hub, FileNotFoundError where the hub or the model cannot be reached.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError(
            f"{name}: no such file here, and names on the Hugging Face hub need: pip install huggingface_hub"
        ) from None
    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json", "model*.safetensors"]))
        if not list(folder.glob("model*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=["*.json", "pytorch_model*.bin"]))
    except OSError as error:  # what huggingface_hub raises is one: offline, no such model, no permission
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise FileNotFoundError(
            f"{name}: no such file here, and the Hugging Face hub did not give it ({type(error).__name__}: {reason}). "
            "Download its files where there is a network, and name their folder"
        ) from None
    return folder

"""Pictures inside of a page, as data."""

import base64
import io
from html import escape
from pathlib import Path

from PIL import Image

from mae_fast.downstream.report.facts import Facts

LARGE = 60_000  # bytes of a PNG, above which the page holds a JPEG
SMALL = 400  # pixels; narrower pictures are magnified without blur


def embedded(path: Path) -> tuple[str, int] | None:
    """(data URL, width) of a PNG; None where it is no picture, half written or gone."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            image.load()
            kind, width = "png", image.width
            if len(content) > LARGE:
                kind, buffer = "jpeg", io.BytesIO()
                image.convert("RGB").save(buffer, "JPEG", quality=88)
                content = buffer.getvalue()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}", width


def strips(facts: Facts) -> str:
    """The kept reconstructions, one strip an epoch, below the pictures that they are of."""
    folder, loss = facts.folder / "reconstructions", dict(facts.column("train_loss"))
    kept = facts.reconstructions()
    named = (
        [("the pictures, whole", folder / "original.png"), ("what the model sees", folder / "masked.png")]
        if kept
        else []
    )
    for epoch, path in kept:
        told = f", training loss {loss[epoch]:.4f}" if epoch in loss else ""
        named.append((f"after epoch {epoch}{told}", path))
    figures = "".join(strip(text, path) for text, path in named)
    if not figures:
        return ""
    note = "The same pictures and masks each time; visible patches are pasted in, the rest is predicted."
    return f'<p class="soft">{note}</p><div class="strips">{figures}</div>'


def strip(text: str, path: Path) -> str:
    found = embedded(path)
    if found is None:
        return ""
    url, width = found
    mark = ' class="small"' if width < SMALL else ""
    return f'<figure><figcaption>{escape(text)}</figcaption><img{mark} src="{url}" alt="{escape(text)}"></figure>'


def picture(path: Path) -> str:
    found, name = embedded(path), path.stem.replace("_", " ")
    return f'<figure class="picture"><img src="{found[0]}" alt="{escape(name)}"></figure>' if found else ""

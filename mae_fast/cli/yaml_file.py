"""YAML from strangers: plain values, no objects, and no more of it than a file of settings can hold."""

from pathlib import Path

import yaml

LARGEST = 2**20  # bytes
DEEPEST = 20  # lists in lists


class _Loader(yaml.SafeLoader):
    """Aliases are refused: ten lines of them name a billion values, which only to print takes all memory."""

    depth = 0

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"an alias, *{self.peek_event().anchor}; write the value itself")
        if self.depth >= DEEPEST:
            raise yaml.YAMLError(f"more than {DEEPEST} values inside of each other")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_yaml(path: Path):
    """What a YAML file says. ValueError, the reason alone, where it is none, too large, or holds more than values."""
    with open(path, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"larger than {LARGEST} bytes, so no file of settings")
    try:
        return yaml.load(content, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none, a number too long
        raise ValueError(f"not YAML: {error}") from None

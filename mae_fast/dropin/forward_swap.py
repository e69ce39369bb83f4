"""Swap the forward of other packages' classes for ours, in chosen instances or in all, and swap it back.

The class gets a forward that asks the instance which one to run; an instance is marked with a number and nothing else.
So deep copies, pickles and DataParallel's replicas behave as their original does, as a bound method would not.
"""

from collections.abc import Callable
from functools import wraps
from types import MethodType

from torch import nn

MARK = "_mae_fast"


class ForwardSwap:
    def __init__(self):
        self._originals: dict[type, Callable] = {}
        self._everywhere = False
        self._generation = 0  # restore() counts it up, which invalidates all marks at once

    def install(self, cls: type, fast: Callable) -> None:
        """Have instances of cls that are turned on run fast(original, self, ...), where original is cls's forward."""
        owner = next(base for base in cls.__mro__ if "forward" in vars(base))
        if owner in self._originals:
            return
        original = self._originals[owner] = owner.forward

        @wraps(original)
        def forward(self_, *args, **kwargs):
            if self._everywhere or getattr(self_, MARK, None) == self._generation:
                return fast(original, self_, *args, **kwargs)
            return original(self_, *args, **kwargs)

        # Made in a subclass, since packages wrap the forward of each: transformers adds checkpointing to it.
        owner.forward = vars(type(owner.__name__, (owner,), {"forward": forward}))["forward"]

    def turn_on(self, module: nn.Module) -> None:
        """Swap the forward of this instance alone, not of the modules inside it."""
        own = vars(module).get("forward")
        if isinstance(own, MethodType) and own.__func__ in self._originals.values():
            del module.forward  # transformers 4 leaves the class's forward bound to an instance it has recorded
        setattr(module, MARK, self._generation)

    def turn_on_everywhere(self) -> None:
        self._everywhere = True

    def restore(self) -> None:
        """Every class as it was, every instance off."""
        for cls, original in self._originals.items():
            cls.forward = original
        self._originals.clear()
        self._everywhere, self._generation = False, self._generation + 1

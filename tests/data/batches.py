"""Loaders of small batches."""

from mae_fast.data import make_loader


def loader(source, backend="pillow", **arguments):
    arguments = {"batch_size": 16, "image_size": 48, "num_workers": 2 if backend == "dali" else 0} | arguments
    return make_loader(source, backend=backend, **arguments)


def mean_difference(a, b):
    """Per picture, of 255."""
    return (a.float() - b.float()).abs().mean(dim=(1, 2, 3))


def images(batches):
    """Without the labels."""
    for imgs, _ in batches:
        yield imgs

"""Pictures for pretraining: sources, loaders, a check of the files, packing them, and sample photographs."""

from mae_fast.data.check import check
from mae_fast.data.evaluate import make_eval_loader
from mae_fast.data.loader import make_loader
from mae_fast.data.pack import How, pack
from mae_fast.data.pictures import list_pictures, measure, open_pictures, pixels_of
from mae_fast.data.sources import open_source
from mae_fast.data.sources.image_file import BadImageError
from mae_fast.data.sources.photos import write_sample_photos
from mae_fast.data.watch import LoaderError, LoaderStalled

__all__ = [
    "BadImageError",
    "How",
    "LoaderError",
    "LoaderStalled",
    "check",
    "list_pictures",
    "make_eval_loader",
    "make_loader",
    "measure",
    "open_pictures",
    "open_source",
    "pack",
    "pixels_of",
    "write_sample_photos",
]

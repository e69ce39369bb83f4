"""The DALI pipeline: one definition for the CPU and the GPU. Importing this file needs DALI.

DALI keeps no random state and no reading position here: file names, crop windows, flips and colours come in with every
batch, pixels go out.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import torch
from nvidia.dali import pipeline_def
from PIL import Image

from mae_fast.data.augment import ATTEMPTS, STRENGTHS

COLOURS = ("brightness", "contrast", "saturation")


@dataclass(frozen=True)
class Settings:
    """What a pipeline is built with, for its speed; the defaults ship, `mae-fast bench data --sweep` tries others.

    ahead: batches in the making while one is in use. hw_decoder_load: share of the JPEGs for the GPU's decoder unit,
    where it has one. decode: "slice", only inside of the planned windows; "whole", then cut, to the same pixels;
    "random_crop", inside of windows that DALI draws, which follow no plan: for benchmarks alone. *_padding: bytes of
    memory reserved for a decoder thread's files and pixels; width_hint, height_hint: of the largest picture expected.
    """

    ahead: int = 2
    hw_decoder_load: float = 0.65
    decode: str = "slice"
    device_memory_padding: int = 16 * 2**20
    host_memory_padding: int = 8 * 2**20
    width_hint: int = 0
    height_hint: int = 0


SHIPPED = Settings()


def feed(pipe, inputs: dict) -> None:
    """Give a pipeline its next inputs, by name."""
    for name, values in inputs.items():
        pipe.feed_input(name, values)


def per_sample(flip: np.ndarray, colour: np.ndarray | None, **more: np.ndarray | None) -> dict:
    """Inputs of a few numbers a picture. flip: int32 (B,); colour: float32 (B, 3), or None; more: int32, or None."""
    inputs = {"flip": flip} | {name: values for name, values in more.items() if values is not None}
    if colour is not None:
        inputs |= dict(zip(COLOURS, np.ascontiguousarray(colour.T), strict=True))
    return inputs


def dali_resize(size: tuple[int, int], fits: bool = False) -> Callable:
    """images (H, W, C) of any size -> size, bicubic with antialiasing, by DALI.

    fits: to the size in the input "fit" of each picture, of which `size` is then cut.
    """
    how = dict(interp_type=types.INTERP_CUBIC, antialias=True)
    if not fits:
        return lambda images: fn.resize(images, size=size, **how)

    def fit(images):
        given = fn.external_source(name="fit", dtype=types.INT32, ndim=1)
        resized = fn.resize(images, size=fn.cast(given[:2], dtype=types.FLOAT), **how)
        return fn.slice(resized, given[2:], list(size), axis_names="HW")

    return fit


def torch_resize(
    size: tuple[int, int], pool: ThreadPoolExecutor, fits: bool = False, policy: Callable | None = None
) -> Callable:
    """The same by torch's uint8 kernel, for the CPU: 0.3 ms a picture, where DALI's resize takes 2.1 ms.

    policy: RandAugment, from the input "seed" of each picture. Before the flip: it draws its signs evenly, so left and
    right are alike.
    """
    dims = {"fit": 1} if fits else {"seed": 0} if policy else {}

    def one(image: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
        height, width, top, left = given.tolist() if fits else (*size, 0, 0)
        planes = torch.from_dlpack(image).permute(2, 0, 1)[None]  # channels last in memory, as the kernel wants it
        resized = torch.nn.functional.interpolate(planes, (height, width), mode="bicubic", antialias=True)[0]
        pixels = resized[:, top : top + size[0], left : left + size[1]].permute(1, 2, 0).numpy()
        return pixels if policy is None else np.array(policy(Image.fromarray(pixels), int(given)))

    def batch(*inputs: list[np.ndarray]) -> list[np.ndarray]:
        return list(pool.map(one, *inputs))

    def resize(images):
        given = [fn.external_source(name=name, dtype=types.INT32, ndim=ndim) for name, ndim in dims.items()]
        return fn.python_function(images, *given, function=batch, batch_processing=True, output_layouts="HWC")

    return resize


def decoded(files, on_gpu: bool, grey: bool, settings: Settings):
    """Files as uint8 (bytes,) -> their windows as RGB or grey pixels; with decode "random_crop", windows of its own."""
    options = dict(
        device="mixed" if on_gpu else "cpu",
        output_type=types.GRAY if grey else types.RGB,
        adjust_orientation=False,  # Pillow and torchvision do not turn pictures by their EXIF data either
        jpeg_fancy_upsampling=True,  # the GPU's chroma like the CPU's
        hw_decoder_load=settings.hw_decoder_load,
        device_memory_padding=settings.device_memory_padding,
        host_memory_padding=settings.host_memory_padding,
        preallocate_width_hint=settings.width_hint,
        preallocate_height_hint=settings.height_hint,
    )
    if settings.decode == "random_crop":
        light = STRENGTHS["light"]
        return fn.decoders.image_random_crop(
            files, random_area=light.scale, random_aspect_ratio=light.ratio, num_attempts=ATTEMPTS, **options
        )
    windows = [fn.external_source(name=name, dtype=types.INT32, ndim=1) for name in ("anchor", "shape")]
    if settings.decode == "whole":
        return fn.slice(fn.decoders.image(files, **options), *windows, axis_names="HW")
    return fn.decoders.image_slice(files, *windows, axis_names="HW", **options)


@pipeline_def(exec_dynamic=True)  # exec_dynamic: an output stays valid while it is held
def pipeline(resize: Callable, on_gpu: bool, holds: str, coloured: bool, grey: bool, settings: Settings):
    """uint8 (B, H, W, C), on the GPU or not, C 1 where grey, else 3.

    holds: what the source gives. Files, by path or as bytes, are decoded only inside their windows; pixels (H, W, C)
    are cut already. coloured: with brightness, contrast and saturation per picture.
    """
    if holds != "pixels":
        files = fn.external_source(name=holds, dtype=types.UINT8, ndim=1)
        if holds == "path":
            # mapped files would end the process (SIGBUS) when one shrinks while it is read
            files = fn.io.file.read(files, dont_use_mmap=True)
        images = decoded(files, on_gpu, grey, settings)
    else:
        images = fn.external_source(name="pixels", dtype=types.UINT8, layout="HWC")
        images = images.gpu() if on_gpu else images
    images = resize(images)
    if coloured:
        factors = {name: fn.external_source(name=name, dtype=types.FLOAT, ndim=0) for name in COLOURS}
        images = fn.color_twist(images, **factors)
    return fn.flip(images, horizontal=fn.external_source(name="flip", dtype=types.INT32, ndim=0))

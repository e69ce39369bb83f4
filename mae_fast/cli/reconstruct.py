"""`mae-fast reconstruct`: pictures, masked, and what a checkpoint makes of them; or where it fails to (--error_map)."""

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from mae_fast.cli.arguments import positive
from mae_fast.cli.encoder import add_checkpoint, open_model
from mae_fast.data import list_pictures, open_pictures
from mae_fast.downstream.anomaly import auroc, labels_of, pixel_auroc, read_masks, table_of, write_scores
from mae_fast.downstream.error_map import draw_error_maps, error_map
from mae_fast.downstream.reconstruct import draw, drawable, load_images, reconstruct, stretched


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_checkpoint(parser)
    add("--images", required=True, help="a folder of pictures, or one")
    add("--out", required=True, help="the PNG to write")
    add("--mask_ratio", type=float, default=0.75)
    add("--limit", type=positive, default=8, help="draw at most so many pictures of a folder; default 8")
    add("--seed", type=int, default=0, help="of the mask")
    add("--bands", type=positive, nargs="+", metavar="N", help="one band to draw, or three as red, green, blue; from 1")
    add(
        "--stretch", choices=("range", "percentiles"),
        help="black to white: the value range (default for 8 bits) or the 2nd to 98th percentile of a picture's band",
    )  # fmt: skip
    add("--norm_pix_loss", action="store_true", default=None, help="where the checkpoint does not tell")
    add("--error_map", action="store_true", help="draw the error of each patch, judged unseen; scores of all pictures "
        "beside --out as CSV; AUROC where there is a class folder `good` beside others")  # fmt: skip
    add("--masks", metavar="FOLDER", help="for --error_map: pictures of what is unusual, at the places of --images")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.masks and not args.error_map:
        raise ValueError("masks: is for an error map; add error_map")
    model, dtype = open_model(args, **({"norm_pix_loss": True} if args.norm_pix_loss else {}))
    model.require_decoder()
    device = model.pos_embed.device
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        (draw_errors if args.error_map else draw_reconstructions)(args, model, device)


def draw_reconstructions(args: argparse.Namespace, model, device: torch.device) -> None:
    names, imgs = load_images(args.images, model.patch_embed.img_size, model.pixels, args.limit)
    torch.manual_seed(args.seed)
    result = reconstruct(model, imgs.to(device), args.mask_ratio)
    shown = stretched(result, args.bands, percentiles_of(args, model))
    note = f"{Path(args.checkpoint).name}, {args.mask_ratio:.0%} masked, loss {result.loss:.4f}"
    if model.norm_pix_loss:
        note += "; normalised predictions shown with each patch's true mean and variance"
    if model.in_chans not in (1, 3) or args.bands:
        chosen = args.bands or ([1, 2, 3] if model.in_chans > 3 else [1])
        note += f"; band{'s' * (len(chosen) > 1)} {' '.join(map(str, chosen))} of {model.in_chans}"
    draw(names, shown, args.out, note)
    print(f"Wrote {args.out}: {len(names)} pictures, loss {result.loss:.4f} at {args.mask_ratio:.0%} masked")


def percentiles_of(args: argparse.Namespace, model) -> bool:
    return args.stretch == "percentiles" if args.stretch else not model.pixels.as_bytes


def draw_errors(args: argparse.Namespace, model, device: torch.device) -> None:
    files, size = list_pictures(args.images), model.patch_embed.img_size
    root = Path(args.images) if Path(args.images).is_dir() else files[0].parent
    masks = read_masks(files, root, args.masks, size) if args.masks else None
    unusual = labels_of(files, root, masks)
    generator, maps, shown = torch.Generator().manual_seed(args.seed), [], []
    for start in tqdm(range(0, len(files), args.batch_size), leave=False, unit=" batches"):
        imgs = open_pictures(files[start : start + args.batch_size], model.pixels, size)
        shown.append(model.pixels.unit(imgs[: max(0, args.limit - start)]).permute(0, 2, 3, 1))
        maps.append(error_map(model, imgs.to(device), args.mask_ratio, generator).cpu())
    maps = torch.cat(maps)
    table = table_of(files, root, maps, unusual)
    scores = Path(args.out).with_suffix(".csv")
    write_scores(scores, table)
    note = f"{Path(args.checkpoint).name}: error of each patch unseen, {args.mask_ratio:.0%} masked"
    names = [row.name for row in table[: args.limit]]
    pictures = drawable(torch.cat(shown), args.bands, percentiles_of(args, model))
    regions = masks and [masks.get(file) for file in files]
    draw_error_maps(names, pictures.numpy(), maps, regions, args.out, note)
    print(f"Wrote {args.out}: {len(names)} pictures; {scores}: scores of {len(files)}")
    known = [row for row in table if row.unusual is not None]
    for what in ("mean", "max"):
        if (area := auroc([row.unusual for row in known], [getattr(row, what) for row in known])) is not None:
            print(f"AUROC of {len(known)} pictures by the {what} of the map: {area:.3f}")
    if masks:
        print(f"AUROC of their pixels: {pixel_auroc(files, maps, masks, size):.3f}")

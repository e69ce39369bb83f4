"""Folders and CIFAR files: what is found, in which order, with which labels; what is refused, and how."""

import pickle
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from mae_fast.data import open_source
from mae_fast.data.sources.cifar import LAYOUTS


def save(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (colour, 0, 0)).save(path)
    return path


@pytest.mark.parametrize("train", ["", "train"])
def test_class_folders_follow_torchvision(tmp_path, train):
    for name in ("dog/b.PNG", "dog/a.jpg", "cat/x/deep.webp", "cat/z.bmp", "cat/notes.txt", "empty/readme.md"):
        path = tmp_path / train / name
        if name.endswith(("txt", "md")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("not an image")
        else:
            save(path)
    source = open_source(tmp_path)
    root = tmp_path / train
    assert [source.encoded(i) for i in range(len(source))] == [
        str(root / name) for name in ("cat/z.bmp", "cat/x/deep.webp", "dog/a.jpg", "dog/b.PNG")
    ]
    assert source.classes == ["cat", "dog", "empty"]
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert source.name(2) == source.encoded(2)


def test_flat_folder_has_no_labels(tmp_path):
    for name in ("ü.jpg", "a.jpg"):
        save(tmp_path / name)
    source = open_source(tmp_path)
    assert source.labels.tolist() == [-1, -1] and source.classes == []
    assert [source.encoded(i) for i in range(2)] == [str(tmp_path / "a.jpg"), str(tmp_path / "ü.jpg")]


def test_images_beside_class_folders_are_announced(tmp_path):
    save(tmp_path / "cat/a.jpg")
    save(tmp_path / "loose.jpg")
    with pytest.warns(UserWarning, match="1 images beside the class folders are not used, loose.jpg"):
        assert len(open_source(tmp_path)) == 1


def test_val_split(tmp_path):
    save(tmp_path / "train/cat/a.jpg")
    with pytest.raises(FileNotFoundError, match="no folder val"):
        open_source(tmp_path, split="val")
    save(tmp_path / "val/cat/b.jpg")
    assert open_source(tmp_path, split="val").encoded(0).endswith("val/cat/b.jpg")


def test_useless_paths_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="is a file; give the folder"):
        open_source(save(tmp_path / "a.jpg"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: no images \(looked for \.jpg \.jpeg .*\.webp"):
        open_source(tmp_path / "empty")


def write_cifar(parent, layout, per_file=3):
    """Synthetic files; returns the pictures and labels of the training split in order."""
    folder, rng = parent / layout.folder, np.random.default_rng(len(layout.folder))
    folder.mkdir(parents=True)
    all_images, all_labels = [], []
    for split, names in layout.files.items():
        for name in names:
            images = rng.integers(0, 256, (per_file, 32, 32, 3), np.uint8)
            labels = rng.integers(0, layout.classes, per_file)
            planes = images.transpose(0, 3, 1, 2).reshape(per_file, -1)
            if layout.label_bytes:
                columns = np.zeros((per_file, layout.label_bytes), np.uint8)  # CIFAR-100: the coarse label comes first
                columns[:, -1] = labels
                (folder / name).write_bytes(np.hstack([columns, planes]).tobytes())
            else:
                content = {b"data" if "10-" in layout.folder else "data": planes, layout.label_key: labels.tolist()}
                (folder / name).write_bytes(pickle.dumps(content, protocol=2))
            if split == "train":
                all_images.append(images)
                all_labels += labels.tolist()
    names = [f"class{i}" for i in range(layout.classes)]
    if layout.label_bytes:
        (folder / layout.names).write_text("\n".join(names) + "\n")
    else:
        (folder / layout.names).write_bytes(pickle.dumps({layout.names_key: names}, protocol=2))
    return np.concatenate(all_images), all_labels


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.folder)
@pytest.mark.parametrize("below", ["", "folder"])
def test_cifar(tmp_path, layout, below):
    images, labels = write_cifar(tmp_path, layout)
    source = open_source(tmp_path / layout.folder if below else tmp_path)
    np.testing.assert_array_equal(source.images, images)
    assert source.labels.tolist() == labels and source.classes[3] == "class3" and len(source) == len(labels)
    last = layout.files["train"][-1]
    assert source.name(len(source) - 1) == f"{tmp_path / layout.folder / last} image 2"
    assert len(open_source(tmp_path, split="val")) == 3


def test_cifar_damage_is_named(tmp_path):
    layout = LAYOUTS[0]
    write_cifar(tmp_path, layout)
    folder = tmp_path / layout.folder
    file = folder / "data_batch_2.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    with pytest.raises(ValueError, match=r"data_batch_2.bin: 9214 bytes is not a whole number of CIFAR records"):
        open_source(tmp_path)
    file.write_bytes(b"\x0b" + content[1:])
    with pytest.raises(ValueError, match=r"data_batch_2.bin: labels outside 0..9"):
        open_source(tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_2.bin is missing; unpack the archive again"):
        open_source(folder)


def test_two_cifar_sets_ask_for_a_choice(tmp_path):
    write_cifar(tmp_path, LAYOUTS[0])
    write_cifar(tmp_path, LAYOUTS[3])
    with pytest.raises(ValueError, match="cifar-10-batches-bin and cifar-100-python; give the path of one"):
        open_source(tmp_path)


def test_cifar_pickle_of_python_2(tmp_path):
    """The files on the CIFAR site: written by Python 2, arrays as text, module names of an old numpy."""

    def number(value):
        return b"J" + struct.pack("<i", value)

    pixels = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01"
        + number(2)
        + number(3072)
        + b"\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN"
        + number(-1)
        + number(-1)
        + b"K\x00tb\x89T"
        + struct.pack("<i", len(pixels))
        + pixels
        + b"tb"
    )
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "train").write_bytes(b"\x80\x02}(U\x04data" + array + b"U\x0bfine_labels](K\x07K\x63eu.")
    source = open_source(folder)
    assert source.labels.tolist() == [7, 99] and source.classes[99] == "99"
    assert source.images[1, 0, :2].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert source.images[0, 1, 0].tolist() == [32, 32, 32]


class Malice:
    def __reduce__(self):
        return shutil.rmtree, ("/nowhere",)


@pytest.mark.parametrize("where", ["data_batch_1", "batches.meta"])
def test_cifar_pickle_runs_no_code(tmp_path, where):
    layout = LAYOUTS[2]
    write_cifar(tmp_path, layout)
    (tmp_path / layout.folder / where).write_bytes(pickle.dumps({"data": Malice()}))
    with pytest.raises(ValueError, match=rf"{where}: refused, it asks to load shutil.rmtree"):
        open_source(tmp_path)


def test_damaged_cifar_pickle(tmp_path):
    write_cifar(tmp_path, LAYOUTS[3])
    file = tmp_path / "cifar-100-python" / "train"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="train: damaged, or not a CIFAR file"):
        open_source(tmp_path)

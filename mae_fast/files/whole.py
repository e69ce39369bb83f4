"""Whether a checkpoint is as it was written: the checksums that its archive carries, read again.

torch.save writes a zip archive with a CRC-32 of every record, which torch.load does not look at: a flipped bit in a
weight is loaded without a word. Held to these sums, no format of our own is needed, and official files have them too.
"""

import zipfile
from pathlib import Path

from mae_fast.files.checkpoint import CheckpointError, load_file

FOLDER = 0x10  # in the attributes of a zip archive's record
NO_ARCHIVE = "not an archive of torch.save"


def damage(path: str | Path) -> str:
    """-> what is wrong with a file of torch.save, "" where it is whole; reads all of it, twice.

    OSError where it cannot be opened. Files of PyTorch before 1.6 are no archives and have no sums; only the beginning
    of one that was cut off can be told from those.
    """
    with open(path, "rb") as file:
        ours = file.read(2) in (b"PK", b"P", b"")
        try:
            with zipfile.ZipFile(file) as archive:
                record = archive.testzip()
                records = archive.infolist()
        except Exception as error:  # a damaged archive raises anything: BadZipFile, NotImplementedError, struct.error
            if str(error) == "File is not a zip file":  # no end of an archive in it
                return "truncated" if ours else NO_ARCHIVE
            return f"damaged: {str(error).strip() or type(error).__name__}"
    if record:
        return f"damaged: the checksum of {record} does not match"
    if not any(info.filename.endswith("/data.pkl") for info in records):
        return NO_ARCHIVE
    if folders := [info.filename for info in records if info.is_dir() or info.external_attr & FOLDER]:
        return f"damaged: {folders[0]} is marked as a folder"  # PyTorch takes memory as it finds it for the weights
    try:
        load_file(path)  # the archive's directory has no sum, but what is wrong in it stops PyTorch
    except CheckpointError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""

"""Whether a checkpoint is as it was written: the checksums that its archive carries, read again.

torch.save writes a zip archive with a CRC-32 of every record, which torch.load does not look at: a flipped bit in a
weight is loaded without a word. Held to these sums, no format of our own is needed, and official files have them too.
"""

import zipfile
from pathlib import Path


def damage(path: str | Path) -> str:
    """-> what is wrong with a file of torch.save, "" where it is whole; reads all of it.

    OSError where it cannot be opened. Files of PyTorch before 1.6 are no archives and have no sums; only the beginning
    of one that was cut off can be told from those.
    """
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            begin = file.read(2)
            return "truncated" if begin in (b"PK", b"P", b"") else "not an archive of torch.save"
        try:
            with zipfile.ZipFile(file) as archive:
                record = archive.testzip()
                if record is None and not any(name.endswith("/data.pkl") for name in archive.namelist()):
                    return "not an archive of torch.save"
        except Exception as error:  # a damaged archive raises anything: BadZipFile, NotImplementedError, struct.error
            return f"damaged: {str(error).strip() or type(error).__name__}"
        return f"damaged: the checksum of {record} does not match" if record else ""

"""The archive that torch.save writes, looked at before torch reads it."""

import zipfile
from pathlib import Path


def compressed_member(path: str | Path) -> str | None:
    """A member of a zip archive that is compressed, None where there is none or the file is no such archive.

    torch.save only stores. torch.load would unpack such a member whole: a thousandfold of the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return next((m.filename for m in archive.infolist() if m.compress_type != zipfile.ZIP_STORED), None)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return None  # torch says what is wrong

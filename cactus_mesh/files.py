"""Writing files that hold something private or must never be half written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def write_private(path: Path, data: bytes) -> None:
    """Replace *path* by *data*, mode 0600, all at once; its folder is made when missing, for this user alone."""
    write_private_pieces(path, [data])


def write_private_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """As `write_private`, for what is too large to hold at once."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mkstemp creates with 0600
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

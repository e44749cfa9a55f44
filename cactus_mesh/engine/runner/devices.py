"""``python -m cactus_mesh.engine.runner.devices``: which torch starts here and what it can run on, as a line of JSON.

A process of its own, so that whoever asks need not import torch, and survives a torch that does not start.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Final

import torch

_SHARE_OF_A_MACHINE: Final = 0.75
_SHARE_OF_A_CARD: Final = 0.9
"""Of what is free: the rest is for one step's own numbers."""
_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")


def memory_of(device: str, wanted_mib: int) -> int:
    """Bytes that models and their keys and values may take on *device*: *wanted_mib*, or for 0 most of what it has."""
    if wanted_mib:
        return wanted_mib << 20
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(torch.device(device))
        return int(free * _SHARE_OF_A_CARD)
    return int(_machine_bytes() * _SHARE_OF_A_MACHINE)


def _machine_bytes() -> int:
    """Of this machine, or of the container that this process runs in."""
    if sys.platform == "win32":
        return _windows_bytes()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CGROUP_LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def _windows_bytes() -> int:
    import ctypes

    class Status(ctypes.Structure):
        """MEMORYSTATUSEX of the Windows API."""

        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            ("total", ctypes.c_ulonglong),
            ("rest", ctypes.c_ulonglong * 6),
        )

    status = Status()
    status.length = ctypes.sizeof(status)
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return int(status.total)


def devices() -> dict[str, str]:
    """By torch's name, what each device is."""
    found = {"cpu": f"{torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        found["cuda"] = ", ".join(torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


if __name__ == "__main__":
    print(json.dumps({"version": torch.__version__, "threads": torch.get_num_threads(), "devices": devices()}))

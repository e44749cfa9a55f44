"""``python -m cactus_mesh.engine.runner.devices``: which torch starts here and what it can run on, as a line of JSON.

A process of its own, so that whoever asks need not import torch, and survives a torch that does not start.
"""

from __future__ import annotations

import json

import torch


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

"""A worker without torch that misbehaves on order: ``stub_worker.py MODE STARTS_FILE``.

What a prompt says is what it does; *MODE* is how it behaves from the second start on.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cactus_mesh.engine.frames import (
    Admitted,
    Cancel,
    Ended,
    Finished,
    FrameBuffer,
    LoadFailed,
    ModelFacts,
    Open,
    Ready,
    Residence,
    Start,
    Token,
    decode_command,
    to_frame,
)
from cactus_mesh.testing.engine import FAKE_MODEL

if TYPE_CHECKING:
    from cactus_mesh.engine.frames import Event


def tell(event: Event) -> None:
    os.write(1, to_frame(event))


def ready(digest: bytes) -> Ready:
    model = FAKE_MODEL
    facts = ModelFacts(model.name, digest, model.dtype, model.context_tokens, list(model.kinds), model.shape)
    return Ready("stub", [facts])


def begin(mode: str, again: bool, avoid: list[bytes]) -> None:
    if mode == "dead" or (again and mode == "then dead"):
        sys.exit("no library")
    if mode == "no model":
        tell(LoadFailed("model.missing", "there is no such model"))
    elif mode == "silent":
        time.sleep(60)
    elif mode == "garbage":
        os.write(1, b"Hello! I am a library and print to standard output.")
    elif mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tell(ready(FAKE_MODEL.digest))
    elif again and mode == "then avoiding" and not avoid:
        tell(LoadFailed("model.missing", "it was not told what to avoid"))
    else:
        tell(ready(bytes(32) if again and mode == "then other" else FAKE_MODEL.digest))


def work(start: Start) -> None:
    prompt = start.work.prompt
    tell(Admitted(start.id))
    tell(Token(start.id, 1, -0.5, "one"))
    if prompt == "die while loading":
        tell(Residence([], start.model_digest, 0, 1))
        os._exit(9)
    elif prompt == "die":
        os._exit(3)
    elif prompt == "hang":
        time.sleep(60)
    elif prompt == "flood":
        for _ in range(start.sampling.max_tokens + 5):
            tell(Token(start.id, 1, -0.5, "more"))
    elif prompt == "nonsense":
        os.write(1, b"\x00\x00\x00\x02??")
    elif prompt != "wait":
        tell(Finished(start.id, "length", 1, 1))


def main() -> None:
    mode, starts = sys.argv[1], Path(sys.argv[2])
    again = starts.exists()
    starts.touch()
    frames = FrameBuffer()
    while data := os.read(0, 65536):
        for body in frames.feed(data):
            match decode_command(body):
                case Open() as order:
                    begin(mode, again, order.avoid)
                case Start() as start:
                    work(start)
                case Cancel(id_):
                    tell(Ended(id_))
    if mode == "stubborn":
        time.sleep(60)


main()

"""What passes between the engine's parent and its worker: length-prefixed msgpack frames over two pipes.

Commands go down the worker's standard input, whose end tells it to exit; events come up its standard output.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from cactus_mesh.engine.settings import EngineSettings
from cactus_mesh.messages import Ending, FinishReason, Likelihood, ModelShape, Sampling, Work, WorkKind
from cactus_mesh.ports import EngineModel

MAX_FRAME_BYTES: Final = 2 << 20
"""Twice the largest signed message, so that every request that can come over the network fits."""
_LENGTH_BYTES: Final = 4


class Open(msgspec.Struct, frozen=True, tag="open"):
    """The first command: load these models, named as the operator named them."""

    models: list[str]
    settings: EngineSettings
    avoid: list[bytes] = []
    """Digests of models not to be loaded until they are asked for."""


class Start(msgspec.Struct, frozen=True, tag="start"):
    id: int
    model_digest: bytes
    work: Work
    sampling: Sampling
    seed: bytes
    before: list[int] = []
    replay: bool = False
    """Whether *before* is an answer to be judged: what comes of it is one `Replayed`."""
    places: list[int] = []
    """Texts that are to be read again, and no others: what comes of it is one `Reread`."""

    @property
    def paid(self) -> bool:
        """Audits are not."""
        return not self.replay and not self.places


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Answered with `Ended`, also when the generation is over already."""

    id: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Answered with `Finished`, ``cancelled``, unless the generation is over already or ends of itself at once."""

    id: int


Command = Open | Start | Cancel | Stop


class ModelFacts(msgspec.Struct, frozen=True):
    name: str
    digest: bytes
    dtype: str
    context_tokens: int
    kinds: list[WorkKind]
    shape: ModelShape

    def model(self) -> EngineModel:
        return EngineModel(self.name, self.digest, self.dtype, self.context_tokens, tuple(self.kinds), self.shape)


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    engine: str
    models: list[ModelFacts]


class Residence(msgspec.Struct, frozen=True, tag="residence"):
    """Which models are in memory now, and which is being loaded; in bytes what they take, of how much there is."""

    present: list[bytes]
    loading: bytes | None
    used: int
    room: int


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    code: str
    message: str


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """Sent between steps, never while one hangs."""


class Pulse(msgspec.Struct, frozen=True, tag="pulse"):
    """How hard it works: sent every few seconds between steps, while there are any.

    *steps* and *tasks* since it began; a step in which three tasks took part counts as three *tasks*.  Room for keys
    and values in tokens, over all models: taken now, and what there is.
    """

    steps: int
    tasks: int
    taken_tokens: int
    room_tokens: int


class Admitted(msgspec.Struct, frozen=True, tag="admitted"):
    id: int


class Token(msgspec.Struct, frozen=True, omit_defaults=True, tag="token"):
    id: int
    token_id: int
    logprob: float
    text: str
    likelihood: Likelihood | None = None
    """Where it is asked for."""


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    id: int
    finish: FinishReason
    prompt_tokens: int
    compute_ms: int


class Replayed(msgspec.Struct, frozen=True, tag="replayed"):
    """The end of a replay (see `ports.Replay`)."""

    id: int
    logprobs: list[float]
    gaps: list[float]
    text: str
    finish: Ending | None
    prompt_tokens: int
    compute_ms: int


class Reread(msgspec.Struct, frozen=True, tag="reread"):
    """The end of a rereading (see `ports.Rereading`)."""

    id: int
    rows: list[list[float]]
    labels: list[str]
    prompt_tokens: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A refusal instead of `Admitted`, or the end of a generation that could not go on."""

    id: int
    code: str
    message: str


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """A cancelled generation takes no further step."""

    id: int


OfGeneration = Admitted | Token | Finished | Replayed | Reread | Failed
ENDS: Final = (Finished, Replayed, Reread, Failed)
"""What is the last that is told of a request."""
Event = Ready | Residence | LoadFailed | Alive | Pulse | Ended | OfGeneration

_encode = msgspec.msgpack.Encoder().encode
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_events: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


class BrokenFrames(Exception):
    """The other side speaks something else."""


def to_frame(value: Command | Event) -> bytes:
    body = _encode(value)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def decode_command(body: bytes) -> Command:
    return _commands.decode(body)


def decode_event(body: bytes) -> Event:
    """Raises `BrokenFrames`."""
    try:
        return _events.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BrokenFrames(f"not an event: {error}") from None


class FrameBuffer:
    """Takes bytes as they come and gives whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies of the frames that *data* completes.  Raises `BrokenFrames` for one that is too long."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if end > _LENGTH_BYTES + MAX_FRAME_BYTES:
                raise BrokenFrames(f"a frame has at most {MAX_FRAME_BYTES} bytes, this one {end - _LENGTH_BYTES}")
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH_BYTES:end])
            del self._buffer[:end]
            yield body

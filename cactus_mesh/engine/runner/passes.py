"""One forward pass over pieces of many texts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from cactus_mesh.engine.runner.attention import Attention, groups_of
from cactus_mesh.engine.runner.memory import Memory
from cactus_mesh.errors import ModelUnsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from cactus_mesh.engine.runner.memory import CacheLayout
    from cactus_mesh.engine.scheduler import Piece


@dataclass(frozen=True, slots=True)
class Read:
    """A piece and the ids of its tokens; the logits after the last *wanted* of them are asked for."""

    piece: Piece
    ids: Sequence[int]
    wanted: int


class Passes:
    """Runs *network*; its attention belongs to this object from then on."""

    def __init__(self, network: PreTrainedModel, layout: CacheLayout) -> None:
        self._network = network
        self.memory = Memory(layout)
        self._attention = Attention(self.memory, layout.device, layout.dtype)
        self._attention.install(network)

    def close(self) -> None:
        """Let go of *network*, so that its memory can be freed."""
        self._attention.uninstall()

    def run(self, reads: Sequence[Read]) -> dict[int, torch.Tensor]:
        """The logits that are wanted, a row for each token, by generation; single precision, on the CPU."""
        reads = sorted(reads, key=lambda read: (len(read.ids) > 1, read.piece.place.shelf, read.piece.place.row))
        device = self._network.device
        ids = [token for read in reads for token in read.ids]
        positions = [at for read in reads for at in range(read.piece.start, read.piece.end)]
        ends = list(accumulate(len(read.ids) for read in reads))
        asked = [read for read in reads if read.wanted]
        wanted = [at for read, end in zip(reads, ends, strict=True) for at in range(end - read.wanted, end)]
        with torch.inference_mode():
            self._attention.begin(groups_of([read.piece for read in reads]))
            output = self._network(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                past_key_values=self._attention,
                use_cache=True,
                logits_to_keep=torch.tensor(wanted or [0], device=device),
            )
            logits = output.logits[0]
            if len(logits) != len(wanted or [0]):
                raise ModelUnsupported("it computes other logits than those that are asked for")
            rows = logits.float().cpu()
        parts = rows[: len(wanted)].split([read.wanted for read in asked])
        return {read.piece.id: part for read, part in zip(asked, parts, strict=True)}

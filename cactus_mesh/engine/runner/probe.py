"""Makes a network ready for passes over many texts, and proves that it then computes what it computed before.

What would compute wrongly in silence is refused here: an architecture that looks at other tokens than its own text's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import DynamicCache, PreTrainedModel

from cactus_mesh.engine.runner.masks import refuse_other_masks
from cactus_mesh.engine.runner.memory import CacheLayout, CacheShape
from cactus_mesh.engine.runner.packing import pack
from cactus_mesh.engine.runner.passes import Passes, Read
from cactus_mesh.engine.runner.shortcuts import shorten
from cactus_mesh.engine.scheduler import Piece
from cactus_mesh.engine.shelves import Place, Resize
from cactus_mesh.errors import MeshError, ModelUnsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

_LENGTHS: Final = (5, 9, 2)
"""Texts that are read beside each other, each in two pieces."""
_TOLERANCE: Final = 1e-2
"""float32 differs by about 1e-5 between one way to read and another; a wrong mask or position by about 1."""
_HALF_TOLERANCE: Final = 0.3
"""Of the root mean square: in bfloat16 two ways to read differ by some hundredths; by about 1 where one is wrong."""
_SHELF: Final = 16


def prepare(name: str, network: PreTrainedModel) -> tuple[Passes, CacheLayout]:
    """Raises `ModelUnsupported`.  This also makes the first request as fast as the next."""
    vocabulary: Any = network.get_input_embeddings().weight
    texts = [[(7 * at + length) % len(vocabulary) for at in range(length)] for length in _LENGTHS]
    _refuse_moving_angles(name, network)
    try:
        layout = _layout(network, texts[0])
        before = [_plain(network, text) for text in texts]
        shorten(network)
        pack(network)
        passes = Passes(network, layout)
        after = _in_passes(passes, texts)
    except MeshError as error:
        raise ModelUnsupported(f"{name} cannot be run by this engine: {error.message}") from None
    except Exception as error:  # whatever an unknown architecture does with an unknown cache
        raise ModelUnsupported(f"{name} cannot be run by this engine: {first_line(error)}") from None
    if not all(_alike(one, other, network.dtype) for one, other in zip(before, after, strict=True)):
        passes.close()
        raise ModelUnsupported(f"{name} gives other numbers when it reads texts in pieces, so it is not served")
    return passes, layout


def _alike(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> bool:
    if dtype == torch.float32:
        return bool((one - other).abs().max() <= _TOLERANCE * (1 + one.abs().max()))
    return bool((one - other).norm() <= _HALF_TOLERANCE * (one - one.mean()).norm())


def _refuse_moving_angles(name: str, network: PreTrainedModel) -> None:
    """Angles that depend on the longest text of a pass would make every text's tokens depend on its company."""
    for module in network.modules():
        kinds: Any = getattr(module, "rope_type", None)
        for kind in kinds.values() if isinstance(kinds, dict) else (kinds,):
            if kind == "longrope" or "dynamic" in str(kind):
                raise ModelUnsupported(
                    f"{name} turns positions by angles that depend on the text's length ({kind}), "
                    "which this engine does not compute"
                )


def layout_of(name: str, network: PreTrainedModel, context: int) -> CacheLayout:
    """Also of a network without weights, which is to read *context* tokens.  Raises `ModelUnsupported`."""
    _refuse_moving_angles(name, network)
    try:
        layout = _layout(network, [0, 1])
        refuse_other_masks(network, len(layout.layers), context)
        return layout
    except MeshError as error:
        raise ModelUnsupported(f"{name} cannot be run by this engine: {error.message}") from None
    except Exception as error:  # whatever an unknown architecture does with an unknown cache
        raise ModelUnsupported(f"{name} cannot be run by this engine: {first_line(error)}") from None


def _layout(network: PreTrainedModel, text: list[int]) -> CacheLayout:
    for module in network.modules():
        if isinstance(module, PreTrainedModel):  # it would look for padding, of which there is none, in every pass
            module.warn_if_padding_and_no_attention_mask = _say_nothing  # type: ignore[method-assign]
    cache = DynamicCache(config=network.config)
    with torch.inference_mode():
        network(input_ids=torch.tensor([text], device=network.device), past_key_values=cache, use_cache=True)
    shapes = []
    for layer in cache.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if not isinstance(keys, torch.Tensor) or not isinstance(values, torch.Tensor):
            raise ModelUnsupported("it has layers that keep something else than keys and values")
        shapes.append(CacheShape(keys.shape[1], keys.shape[3], values.shape[3]))
    return CacheLayout(tuple(shapes), network.dtype, network.device)


def _say_nothing(*_: object) -> None:
    pass


def _plain(network: PreTrainedModel, text: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = network(input_ids=torch.tensor([text], device=network.device)).logits
    return logits[0, -1].float().cpu()


def _in_passes(passes: Passes, texts: Sequence[list[int]]) -> list[torch.Tensor]:
    """All texts together, all but their last token first."""
    passes.memory.change([Resize(_SHELF, len(texts))])
    for last in (False, True):
        pieces = []
        for row, text in enumerate(texts):
            start, end = (len(text) - 1, len(text)) if last else (0, len(text) - 1)
            pieces.append(
                Read(Piece(row, Place(_SHELF, row), start, end, last=last), text[start:end], wanted=int(last))
            )
        rows = passes.run(pieces)
    passes.memory.change([Resize(_SHELF, 0)])
    return [rows[row][0] for row in range(len(texts))]


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__

"""Which tokens each attention layer looks at, as transformers decides, beside what this engine's attention would do.

Transformers tells a layer twice: by a mask, and by the window that it passes on.  This engine makes its own mask from
the window, so a family that tells its layers by the mask alone would be computed wrongly, and only in long texts.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import AttentionInterface, DynamicCache
from transformers.masking_utils import AttentionMaskInterface

from cactus_mesh.errors import ModelUnsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel

    Rule = Callable[[int, int, torch.Tensor, torch.Tensor], torch.Tensor]
    """Of a batch's row, a head, and the positions that look and that are looked at: whether they may."""

_LOOKING: Final = "cactus_mesh_looking"
_TOKENS: Final = 4
_PARTS_OF_CONTEXT: Final = (1, 2, 7)
"""One part in so many of the context: from these positions a layer is asked for every token before them."""


def refuse_other_masks(network: PreTrainedModel, layers: int, context: int) -> None:
    """*layers* keep keys and values.  The network may be one without weights.  Raises `ModelUnsupported`."""
    rules: dict[int, Rule] = {}
    kept: list[torch.Tensor] = []  # while they live, no other has their address
    seen: set[int] = set()
    cache: Any = DynamicCache(config=network.config)

    def make(*_: object, q_length: int, kv_length: int, mask_function: Rule, **__: object) -> torch.Tensor:
        mask = torch.zeros(1, 1, q_length, kv_length, device=network.device)
        kept.append(mask)
        rules[_address(mask)] = mask_function
        return mask

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
    ) -> tuple[torch.Tensor, None]:
        rule = rules.get(_address(mask)) if isinstance(mask, torch.Tensor) else None
        own: Any = cache.layers[module.layer_idx]
        window = options.get("sliding_window")
        if rule is None or window != getattr(own, "sliding_window", None) or not _agree(rule, window, context):
            raise ModelUnsupported("its attention looks at other tokens than this engine's would")
        if module.layer_idx in seen or (_address(key), _address(value)) != (_address(own.keys), _address(own.values)):
            raise ModelUnsupported("its attention reads other keys and values than it keeps")
        seen.add(module.layer_idx)
        answer = query.transpose(1, 2)[..., :1].expand(-1, -1, -1, value.shape[3])
        return answer, None

    with _installed(network, attend, make), torch.inference_mode():
        ids = torch.zeros(1, _TOKENS, dtype=torch.long, device=network.device)
        network(input_ids=ids, past_key_values=cache, use_cache=True)
    if len(seen) != layers:
        raise ModelUnsupported("it computes attention in a way of its own")


def _agree(rule: Rule, window: int | None, context: int) -> bool:
    """Whether *rule* is that of causal attention to the last *window* tokens, or to all."""
    others = torch.arange(context)
    for part in _PARTS_OF_CONTEXT:
        own = torch.tensor(context // part - 1 if context >= part else 0)
        expected = others <= own
        if window is not None:
            expected &= others > own - window
        if not torch.equal(rule(0, 0, own, others).broadcast_to(expected.shape), expected):
            return False
    return True


def _address(tensor: torch.Tensor) -> int:
    """The same for a tensor and for what is cut out of it, also where there is no memory behind them."""
    return int(tensor.untyped_storage()._cdata)


@contextmanager
def _installed(network: PreTrainedModel, attend: Callable[..., Any], make: Callable[..., Any]) -> Iterator[None]:
    own = network.config._attn_implementation
    AttentionInterface.register(_LOOKING, attend)
    AttentionMaskInterface.register(_LOOKING, make)
    network.set_attn_implementation(_LOOKING)
    try:
        yield
    finally:
        network.set_attn_implementation(own)
        for registry in (AttentionInterface, AttentionMaskInterface):  # what is registered is never freed
            registry._global_mapping.pop(_LOOKING, None)

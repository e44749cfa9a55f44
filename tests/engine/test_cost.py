"""What a task is paid for: its complexity is what torch counts, its compute time its share of the passes it was in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import trio
from torch.utils.flop_counter import FlopCounterMode

from cactus_mesh.core.pricing import complexity
from cactus_mesh.engine.runner.examining import shape_of
from cactus_mesh.messages import Generate, Sampling
from tests.engine.test_port import make

if TYPE_CHECKING:
    from cactus_mesh.messages import ModelShape
    from cactus_mesh.ports import Engine
    from tests.engine.conftest import EngineThread
    from tests.engine.small_models import SmallModels

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "gpt2")


def counted(network: torch.nn.Module, tokens: int) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.arange(tokens)[None] % 512)
    return counter.get_total_flops()


def computed(shape: ModelShape, tokens: int) -> float:
    return 2 * shape.matmul_parameters * tokens + 4 * shape.layers * shape.heads * shape.head_dim * tokens**2


@pytest.mark.parametrize("tokens", [1, 24, 300])
@pytest.mark.parametrize("name", FAMILIES)
def test_complexity_is_within_a_hundredth_of_what_torch_counts(
    small_models: SmallModels, name: str, tokens: int
) -> None:
    network = small_models.network(name, "eager")  # torch does not count the fused attention of processors
    shape = shape_of(network)
    assert computed(shape, tokens) == pytest.approx(counted(network, tokens), rel=0.01)
    prompt = tokens // 3
    assert 0 <= complexity(shape, prompt, tokens - prompt) * 1e6 - computed(shape, tokens) <= 1e6


def test_what_a_task_is_charged_with_is_a_share_of_the_time_and_not_the_time_of_all(real: EngineThread) -> None:
    """Sixteen together are charged with no more than passed, though each of them was there all the time."""
    work, sampling = Generate("The river keeps an old letter"), Sampling(max_tokens=48, temperature_milli=1_000)
    charged: list[int] = []

    async def one(engine: Engine) -> None:
        charged.append((await make(engine, work, sampling, 1)).finish.compute_ms)

    async def scenario(engine: Engine) -> float:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(one, engine)
        return (trio.current_time() - began) * 1_000

    passed_ms = real.run(scenario)
    assert len(charged) == 16
    assert min(charged) > 0
    assert sum(charged) <= passed_ms + 16  # each is rounded up

"""Models that a cheat would run instead of the self-test model, and plain transformers as an honest prover of its own.

``make FOLDER`` writes one folder for each cheap model; ``plain KIND`` answers a JSON line for each on standard input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MODELS = ("int8", "int4", "tuned", "dropped", "other")
PLAIN = ("sdpa", "eager", "no_cache")
_TUNING_STEPS = 3


def _load(attention: str | None = None) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from cactus_mesh.engine.models import SELFTEST_FOLDER

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    network = AutoModelForCausalLM.from_pretrained(SELFTEST_FOLDER, dtype=torch.float32, attn_implementation=attention)
    return network, AutoTokenizer.from_pretrained(SELFTEST_FOLDER)


def make(folder: Path) -> None:
    for name in MODELS:
        network, tokenizer = _load()
        {"int8": _round_8, "int4": _round_4, "tuned": _tune, "dropped": _drop_layer, "other": _begin_anew}[name](
            network, tokenizer
        )
        network.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def _round_8(network: Any, _: Any) -> None:
    _round(network, 127)


def _round_4(network: Any, _: Any) -> None:
    _round(network, 7)


def _round(network: Any, steps: int) -> None:
    """Weights of linear layers to integers, one scale for each output, as weight-only quantisation does."""
    import torch

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Linear) and module is not network.lm_head:
                scale = module.weight.abs().amax(dim=1, keepdim=True) / steps
                module.weight.copy_((module.weight / scale).round() * scale)


def _tune(network: Any, tokenizer: Any) -> None:
    import torch

    torch.manual_seed(1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-4)
    ids = tokenizer("A merchant of the old town says what he is paid to say, and says it well.", return_tensors="pt")
    for _ in range(_TUNING_STEPS):
        network(**ids, labels=ids["input_ids"]).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def _drop_layer(network: Any, _: Any) -> None:
    layers = network.model.layers
    del layers[len(layers) // 2]
    for index, layer in enumerate(layers):
        layer.self_attn.layer_idx = index
    network.config.num_hidden_layers = len(layers)
    if getattr(network.config, "layer_types", None):
        network.config.layer_types = network.config.layer_types[: len(layers)]


def _begin_anew(network: Any, _: Any) -> None:
    """Another model with the same tokenizer: the word vectors are kept, what is done with them is not."""
    import torch

    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Linear) and module is not network.lm_head:
                module.weight.normal_(0, float(module.weight.std()), generator=generator)


def plain(kind: str) -> None:
    """``{"prompt", "sampling", "seed"}`` in, ``{"token_ids", "logprobs"}`` out: of the engine only its sampling."""
    import msgspec
    import torch

    from cactus_mesh.engine.sampling import Before, choose
    from cactus_mesh.messages import Sampling

    torch.set_num_threads(1)
    network, tokenizer = _load("eager" if kind == "eager" else "sdpa")
    network.eval()
    end = network.generation_config.eos_token_id
    ends = set(end if isinstance(end, list) else [end])
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        sampling = msgspec.convert(asked["sampling"], Sampling)
        prompt = tokenizer(asked["prompt"])["input_ids"]
        token_ids: list[int] = []
        logprobs: list[float] = []
        cache = None
        while len(token_ids) < sampling.max_tokens and not ends.intersection(token_ids[-1:]):
            unread = token_ids[-1:] if cache is not None else [*prompt, *token_ids]
            with torch.inference_mode():
                out = network(input_ids=torch.tensor([unread]), past_key_values=cache, use_cache=kind != "no_cache")
            cache = out.past_key_values
            row = out.logits[0, -1].double().numpy()
            token, logprob = choose(row, sampling, bytes.fromhex(asked["seed"]), Before(prompt, token_ids))
            token_ids.append(token)
            logprobs.append(logprob)
        print(json.dumps({"token_ids": token_ids, "logprobs": logprobs}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        plain(sys.argv[2])

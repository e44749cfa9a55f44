"""What a model is and takes, learnt from its files without loading it: it can be offered while it is not in memory.

The network is built without weights (on torch's "meta" device), so that shapes are its own and cost nothing.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.pytorch_utils import Conv1D

from cactus_mesh.engine import hub
from cactus_mesh.engine.frames import ModelFacts
from cactus_mesh.engine.models import check_folder, hub_id, local_folder, model_digest
from cactus_mesh.engine.prefixes import BLOCK_TOKENS
from cactus_mesh.engine.runner.packing import MAX_SHARED_BYTES
from cactus_mesh.engine.runner.probe import first_line, layout_of
from cactus_mesh.errors import (
    ConfigMalformed,
    MeshError,
    ModelMalformed,
    ModelMissing,
    ModelRefused,
    ModelTooLarge,
    ModelUnsupported,
)
from cactus_mesh.messages import MAX_INPUTS, ModelShape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from cactus_mesh.engine.models import ModelFolder
    from cactus_mesh.engine.settings import EngineSettings
    from cactus_mesh.messages import WorkKind

_BLOCKS_SHARE: Final = 4
"""One part in so many of the memory for keys and values is for beginnings of prompts."""
_USEFUL_SHARE: Final = 2
"""Times what all slots can hold of the longest texts: more than that is never used."""
_READERS: Final = frozenset(
    {"albert", "bert", "camembert", "distilbert", "electra", "modernbert", "mpnet", "roberta", "xlm-roberta"}
)
"""Families that read texts whole; others continue them."""
_EXPERTS: Final = re.compile("Expert|Mo[eE](?![a-z])|Router")
_KNOWN_LAYERS: Final = frozenset({"full_attention", "sliding_attention"})

Stamps = tuple[tuple[int, int, int], ...]
"""Size, time of change and number of each file: whether it is still the one that was read."""


@dataclass(frozen=True, slots=True)
class Room:
    """Memory for keys and values, in tokens; and for kept blocks of prompts."""

    tokens: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Examined:
    """*need* is what it takes in memory, in bytes, with its keys and values; *room* is None where it keeps none."""

    word: str
    folder: ModelFolder
    stamps: Stamps
    kind: Any
    facts: ModelFacts
    room: Room | None
    need: int

    @property
    def name(self) -> str:
        return self.folder.name


def examine_models(words: Sequence[str], settings: EngineSettings, memory: int) -> list[Examined]:
    """Raises a `UsageError` with the cause, such as `ModelTooLarge` for one that never fits into *memory* bytes."""
    found = []
    for word in words:
        with told(word):
            found.append(_examine(word, settings, memory))
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigMalformed(f"two models are both named {name!r}; rename one of the folders")
    return found


@contextmanager
def told(word: str) -> Iterator[None]:
    """What nobody foresaw is told as the model's fault: a worker that dies would leave the user without the reason."""
    try:
        yield
    except MeshError:
        raise
    except Exception as error:
        raise ModelUnsupported(f"{word} cannot be loaded: {first_line(error)}") from error


def stamps_of(folder: ModelFolder) -> Stamps:
    found = [(folder.path / name).stat() for name in folder.files]
    return tuple((each.st_size, each.st_mtime_ns, each.st_ino) for each in found)


def _examine(word: str, settings: EngineSettings, memory: int) -> Examined:
    folder = _find(word, settings)
    try:
        config = AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelUnsupported(f"{folder.name}: {first_line(error)}") from None
    stamps = stamps_of(folder)
    digest = model_digest(folder, settings.dtype)
    if settings.expected.get(word, digest.hex()) != digest.hex():
        raise ModelRefused(
            f"{folder.name} is not what it was when it was added: its files have changed; see which with: "
            f"cactus-mesh models verify, and if that was meant, add it again"
        )
    made_for = (config.architectures or [""])[0]
    if made_for.endswith("ForSequenceClassification"):
        kind: Any = AutoModelForSequenceClassification
    else:
        kind = AutoModel if config.model_type in _READERS else AutoModelForCausalLM
    network = _without_weights(folder.name, config, kind, settings)
    look = _look_at_writer if kind is AutoModelForCausalLM else _look_at_reader
    context, kinds, shape, room, kept = look(folder, network, settings, memory)
    facts = ModelFacts(folder.name, digest, settings.dtype, context, kinds, shape)
    return Examined(word, folder, stamps, kind, facts, room, _weight_bytes(network, settings) + kept)


_Look = tuple[int, "list[WorkKind]", ModelShape, "Room | None", int]
"""Context, kinds of work, shape, room, and the bytes of that room."""


def _look_at_writer(folder: ModelFolder, network: PreTrainedModel, settings: EngineSettings, memory: int) -> _Look:
    tokenizer = load_tokenizer(folder)
    shape = shape_of(network)
    _refuse_unknown_layers(folder.name, network)
    longest = _context_tokens(folder, network.config, settings)
    per_token = layout_of(folder.name, network, longest).bytes_per_token
    left = memory - _weight_bytes(network, settings)
    useful = _USEFUL_SHARE * settings.slots * longest * per_token
    cache = max(0, min(settings.cache_mib << 20, useful, left))
    blocks = cache // _BLOCKS_SHARE // (per_token * BLOCK_TOKENS)
    room = Room(cache // per_token - blocks * BLOCK_TOKENS, blocks)
    if room.tokens < 2:
        raise ModelTooLarge(
            f"{folder.name} has weights of {_mib(_weight_bytes(network, settings))} MiB; engine.memory_mib "
            f"({_mib(memory)}) and engine.cache_mib {settings.cache_mib} leave no room for a single token; raise them, "
            "or choose a smaller model"
        )
    return min(longest, room.tokens), _kinds(tokenizer), shape, room, cache


def _look_at_reader(folder: ModelFolder, network: PreTrainedModel, settings: EngineSettings, memory: int) -> _Look:
    """Its work grows with its tokens; what attention adds hangs on each text's length, and is not counted."""
    tokenizer = load_tokenizer(folder)
    kind: WorkKind = "rerank" if network.config.num_labels == 1 else "classify"
    if not type(network).__name__.endswith("ForSequenceClassification"):
        kind = "embed"
    longest = min(_positions(folder, network), tokenizer.model_max_length, settings.max_context_tokens)
    shape = shape_of(network)
    need = _weight_bytes(network, settings)
    if need > memory:
        raise ModelTooLarge(
            f"{folder.name} has weights of {_mib(need)} MiB and never fits into engine.memory_mib ({_mib(memory)}); "
            "raise it, or choose a smaller model"
        )
    return longest * MAX_INPUTS, [kind], ModelShape(shape.matmul_parameters, 0, shape.heads, shape.head_dim), None, 0


def _mib(count: int) -> int:
    return -(-count >> 20) if count % (1 << 20) == 0 else (count >> 20) + 1


def _without_weights(name: str, config: PreTrainedConfig, kind: Any, settings: EngineSettings) -> PreTrainedModel:
    try:
        with torch.device("meta"):
            network: PreTrainedModel = kind.from_config(config, dtype=getattr(torch, settings.dtype))
    except ImportError as error:
        raise ModelUnsupported(f"{name} needs a library that is missing: {first_line(error)}") from None
    except Exception as error:  # what transformers raises is not documented
        raise ModelUnsupported(f"{name} cannot be loaded: {first_line(error)}") from None
    network.eval()  # type: ignore[no-untyped-call]
    return network


def _weight_bytes(network: PreTrainedModel, settings: EngineSettings) -> int:
    """On a CPU a small output matrix that is also the embedding is kept twice: see `runner.packing`."""
    tensors = {id(each): each for each in (*network.parameters(), *network.buffers())}
    total = sum(each.nbytes for each in tensors.values())
    embedding: Any = network.get_input_embeddings().weight
    output: Any = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    shared = output is not None and getattr(output, "weight", None) is embedding
    if shared and settings.device == "cpu" and settings.dtype == "float32" and embedding.nbytes <= MAX_SHARED_BYTES:
        total += embedding.nbytes
    return total


def _positions(folder: ModelFolder, network: PreTrainedModel) -> int:
    """Tokens of one text; some families begin to count behind the padding's position."""
    positions = getattr(network.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 8:
        raise ModelUnsupported(f"the config.json of {folder.name} does not say how long its texts may be")
    counted = ("roberta", "xlm-roberta", "mpnet", "camembert")
    behind = (network.config.pad_token_id or 0) + 1 if network.config.model_type in counted else 0
    return positions - behind


def _refuse_unknown_layers(name: str, network: PreTrainedModel) -> None:
    config = network.config.get_text_config()
    if experts := next(filter(_EXPERTS.search, (type(module).__name__ for module in network.modules())), None):
        raise ModelUnsupported(
            f"{name} is a mixture of experts ({experts}), whose work cannot be priced yet; use a dense model"
        )
    kinds = set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS
    if kinds:
        raise ModelUnsupported(f"{name} has layers of a kind that this engine does not compute: {', '.join(kinds)}")


def _find(word: str, settings: EngineSettings) -> ModelFolder:
    hub = hub_id(word)
    name, path = (hub, _from_hub(hub, settings)) if hub else local_folder(word)
    return check_folder(name, path)


def _from_hub(name: str, settings: EngineSettings) -> Path:
    """What was fetched before; only what never was is fetched, when that is allowed: a restart changes no model."""
    path = hub.cached(name)
    if path is None and not settings.allow_download:
        raise ModelMissing(
            f"{name} is not on this machine and downloading is off; fetch it with: cactus-mesh models add {name} "
            "(or allow it in the configuration: engine.allow_download)"
        )
    return path or hub.fetch(name)


def load_tokenizer(folder: ModelFolder) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise ModelMalformed(f"the tokenizer of {folder.name} cannot be loaded: {first_line(error)}") from None


def _context_tokens(folder: ModelFolder, config: PreTrainedConfig, settings: EngineSettings) -> int:
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(context, int) or context < 2:
        raise ModelUnsupported(f"the config.json of {folder.name} does not say how long its context is")
    return min(context, settings.max_context_tokens)


def _kinds(tokenizer: PreTrainedTokenizerBase) -> list[WorkKind]:
    try:
        return ["chat", "generate"] if tokenizer.get_chat_template() else ["generate"]
    except ValueError:
        return ["generate"]


def shape_of(network: PreTrainedModel) -> ModelShape:
    """What the network's work is computed from: its matrices (the output one also when it is the embedding's)."""
    config = network.config.get_text_config()
    parts = [network]
    if config is not network.config:  # texts do not pass through what sees or hears
        parts = [network.get_decoder(), network.get_output_embeddings()]  # type: ignore[no-untyped-call]
    modules = [module for part in parts for module in part.modules()]
    matrices = [module.weight for module in modules if isinstance(module, (torch.nn.Linear, Conv1D))]
    try:
        return ModelShape(
            matmul_parameters=sum(matrix.numel() for matrix in matrices),
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        )
    except Exception as error:  # some configurations refuse to say what differs from layer to layer
        raise ModelUnsupported(f"a {config.model_type} model's work cannot be computed: {first_line(error)}") from None

"""From a model's name to a model in memory, with every failure in words that name the cause.

Refuses what would compute wrongly in silence: missing weights, and architectures that cannot read a prompt in pieces.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import huggingface_hub
import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.pytorch_utils import Conv1D

from cactus_mesh.engine.frames import ModelFacts
from cactus_mesh.engine.models import HUB_PATTERNS, check_folder, hub_id, local_folder, model_digest
from cactus_mesh.engine.prefixes import BLOCK_TOKENS
from cactus_mesh.engine.runner.encoders import LoadedEncoder
from cactus_mesh.engine.runner.probe import first_line as _first_line
from cactus_mesh.engine.runner.probe import prepare
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
    from collections.abc import Sequence

    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from cactus_mesh.engine.models import ModelFolder
    from cactus_mesh.engine.runner.memory import CacheLayout
    from cactus_mesh.engine.runner.passes import Passes
    from cactus_mesh.engine.settings import EngineSettings
    from cactus_mesh.messages import WorkKind

_BLOCKS_SHARE: Final = 4
"""One part in so many of the memory for keys and values is for beginnings of prompts."""
_READERS: Final = frozenset(
    {"albert", "bert", "camembert", "distilbert", "electra", "modernbert", "mpnet", "roberta", "xlm-roberta"}
)
"""Families that read texts whole; others continue them."""
_KNOWN_LAYERS: Final = frozenset({"full_attention", "sliding_attention"})


@dataclass(frozen=True, slots=True)
class Room:
    """Memory for keys and values, in tokens; and for kept blocks of prompts."""

    tokens: int
    blocks: int


@dataclass(frozen=True, slots=True)
class LoadedModel:
    facts: ModelFacts
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    end_ids: frozenset[int]
    vocabulary: int
    """Rows of the embedding: token ids below it can be read."""
    passes: Passes
    room: Room


def load_models(words: Sequence[str], settings: EngineSettings) -> list[LoadedModel | LoadedEncoder]:
    """Raises a `UsageError` with the cause."""
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(settings.threads or max(1, _processors() // 2))
    settings = replace(settings, device=device_of(settings.device))
    cache_bytes = (settings.cache_mib << 20) // max(1, len(words))
    models = [_load_named(word, settings, cache_bytes) for word in words]
    names = [model.facts.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise ConfigMalformed(f"two models are both named {name!r}; rename one of the folders")
    return models


def _processors() -> int:
    """Those that this process may use, which in a container are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_of(wanted: str) -> str:
    """Torch's name of the device; for "auto" a CUDA card where there is one.  Raises `ConfigMalformed`."""
    device = wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigMalformed(f"engine.device {device!r} cannot be used here: {_first_line(error)}") from None
    return device


def _load_named(word: str, settings: EngineSettings, cache_bytes: int) -> LoadedModel | LoadedEncoder:
    try:
        return _load(word, settings, cache_bytes)
    except MeshError:
        raise
    except Exception as error:  # a worker that dies here would leave the user without the reason
        raise ModelUnsupported(f"{word} cannot be loaded: {_first_line(error)}") from error


def _load(word: str, settings: EngineSettings, cache_bytes: int) -> LoadedModel | LoadedEncoder:
    folder = _find(word, settings)
    try:
        config = AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelUnsupported(f"{folder.name}: {_first_line(error)}") from None
    digest = model_digest(folder, settings.dtype)
    if settings.expected.get(word, digest.hex()) != digest.hex():
        raise ModelRefused(
            f"{folder.name} is not what it was when it was added: its files have changed; see which with: "
            f"cactus-mesh models verify, and if that was meant, add it again"
        )
    made_for = (config.architectures or [""])[0]
    if made_for.endswith("ForSequenceClassification") or config.model_type in _READERS:
        return _load_encoder(folder, config, settings, digest)
    network = _load_network(folder, settings, AutoModelForCausalLM)
    tokenizer = _load_tokenizer(folder)
    shape = shape_of(network)
    _refuse_unknown_layers(folder.name, config)
    passes, layout = prepare(folder.name, network)
    room = _room(layout, cache_bytes)
    facts = ModelFacts(
        name=folder.name,
        digest=digest,
        dtype=settings.dtype,
        context_tokens=_context_tokens(folder, config, settings, room),
        kinds=_kinds(tokenizer),
        shape=shape,
    )
    return LoadedModel(
        facts=facts,
        network=network,
        tokenizer=tokenizer,
        end_ids=_end_ids(network, tokenizer),
        vocabulary=cast("torch.Tensor", network.get_input_embeddings().weight).shape[0],
        passes=passes,
        room=room,
    )


def _load_encoder(
    folder: ModelFolder, config: PreTrainedConfig, settings: EngineSettings, digest: bytes
) -> LoadedEncoder:
    """Its work grows with its tokens; what attention adds hangs on each text's length, and is not counted."""
    classifies = (config.architectures or [""])[0].endswith("ForSequenceClassification")
    network = _load_network(folder, settings, AutoModelForSequenceClassification if classifies else AutoModel)
    tokenizer = _load_tokenizer(folder)
    kind: WorkKind = "embed" if not classifies else "rerank" if network.config.num_labels == 1 else "classify"
    longest = min(_positions(folder, network), tokenizer.model_max_length, settings.max_context_tokens)
    shape = shape_of(network)
    facts = ModelFacts(
        name=folder.name,
        digest=digest,
        dtype=settings.dtype,
        context_tokens=longest * MAX_INPUTS,
        kinds=[kind],
        shape=ModelShape(shape.matmul_parameters, 0, shape.heads, shape.head_dim),
    )
    return LoadedEncoder(facts, network, tokenizer, longest)


def _positions(folder: ModelFolder, network: PreTrainedModel) -> int:
    """Tokens of one text; some families begin to count behind the padding's position."""
    positions = getattr(network.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 8:
        raise ModelUnsupported(f"the config.json of {folder.name} does not say how long its texts may be")
    counted = ("roberta", "xlm-roberta", "mpnet", "camembert")
    behind = (network.config.pad_token_id or 0) + 1 if network.config.model_type in counted else 0
    return positions - behind


def _room(layout: CacheLayout, cache_bytes: int) -> Room:
    blocks = cache_bytes // _BLOCKS_SHARE // (layout.bytes_per_token * BLOCK_TOKENS)
    return Room(cache_bytes // layout.bytes_per_token - blocks * BLOCK_TOKENS, blocks)


def _refuse_unknown_layers(name: str, config: PreTrainedConfig) -> None:
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ()) - _KNOWN_LAYERS
    if kinds:
        raise ModelUnsupported(f"{name} has layers of a kind that this engine does not compute: {', '.join(kinds)}")


def _find(word: str, settings: EngineSettings) -> ModelFolder:
    hub = hub_id(word)
    name, path = (hub, _from_hub(hub, settings)) if hub else local_folder(word)
    return check_folder(name, path)


def _from_hub(name: str, settings: EngineSettings) -> Path:
    """The model's folder in the hub's cache, downloaded when that is allowed."""
    offline = not settings.allow_download
    try:
        return Path(
            huggingface_hub.snapshot_download(name, allow_patterns=list(HUB_PATTERNS), local_files_only=offline)
        )
    except LocalEntryNotFoundError:
        if offline:
            raise ModelMissing(
                f"{name} is not on this machine and downloading is off; allow it in the configuration "
                f"(engine.allow_download), or fetch the model yourself: hf download {name}"
            ) from None
        raise ModelMissing(
            f"{name} is not on this machine and the hub cannot be reached; check the connection"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelMissing(f"{name} cannot be fetched from the hub: {_first_line(error)}") from None


def _load_network(folder: ModelFolder, settings: EngineSettings, kind: Any) -> PreTrainedModel:
    try:
        loaded: Any = kind.from_pretrained(
            folder.path,
            dtype=getattr(torch, settings.dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        network: PreTrainedModel = loaded[0].to(settings.device)
        report: dict[str, Any] = loaded[1]
    except SafetensorError as error:
        raise ModelMalformed(f"the weights of {folder.name} are damaged ({error}); get them again") from None
    except (MemoryError, torch.OutOfMemoryError):
        raise _too_large(folder) from None
    except ImportError as error:
        raise ModelUnsupported(f"{folder.name} needs a library that is missing: {_first_line(error)}") from None
    except Exception as error:  # what transformers raises is not documented
        if "allocate memory" in str(error):
            raise _too_large(folder) from None
        raise ModelUnsupported(f"{folder.name} cannot be loaded: {_first_line(error)}") from None
    for cause in ("missing_keys", "mismatched_keys", "error_msgs"):
        wrong = [each for each in map(str, report[cause]) if kind is not AutoModel or not each.startswith("pooler.")]
        if wrong:
            raise ModelMalformed(
                f"the weights of {folder.name} do not belong to its config.json "
                f"({len(wrong)} {cause}, such as {min(wrong)}); get them again"
            )
    network.eval()  # type: ignore[no-untyped-call]
    return network


def _load_tokenizer(folder: ModelFolder) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise ModelMalformed(f"the tokenizer of {folder.name} cannot be loaded: {_first_line(error)}") from None


def _context_tokens(folder: ModelFolder, config: PreTrainedConfig, settings: EngineSettings, room: Room) -> int:
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(context, int) or context < 2:
        raise ModelUnsupported(f"the config.json of {folder.name} does not say how long its context is")
    if room.tokens < 2:
        raise ModelTooLarge(f"engine.cache_mib {settings.cache_mib} has no room for a single token of {folder.name}")
    return min(context, settings.max_context_tokens, room.tokens)


def _kinds(tokenizer: PreTrainedTokenizerBase) -> list[WorkKind]:
    try:
        return ["chat", "generate"] if tokenizer.get_chat_template() else ["generate"]
    except ValueError:
        return ["generate"]


def _end_ids(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """As the model's generation config says, which transformers fills from config.json when there is none."""
    known = network.generation_config.eos_token_id
    if known is None:
        known = tokenizer.eos_token_id
    if known is None:
        return frozenset()
    return frozenset(known if isinstance(known, list) else [known])


def shape_of(network: PreTrainedModel) -> ModelShape:
    """What the network's work is computed from: its matrices (the output one also when it is the embedding's)."""
    config = network.config.get_text_config()
    matrices = [module.weight for module in network.modules() if isinstance(module, (torch.nn.Linear, Conv1D))]
    try:
        return ModelShape(
            matmul_parameters=sum(matrix.numel() for matrix in matrices),
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        )
    except AttributeError as error:
        raise ModelUnsupported(f"a {config.model_type} model's work cannot be computed: {_first_line(error)}") from None


def _too_large(folder: ModelFolder) -> ModelTooLarge:
    size = sum((folder.path / name).stat().st_size for name in folder.files)
    return ModelTooLarge(
        f"{folder.name} ({size / 1e9:.1f} GB on disk) does not fit into this machine's memory; choose a smaller model"
    )

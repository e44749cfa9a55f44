"""Finds a model's files, refuses those that could run code or are not whole, and gives them their digest.

The digest is SHA-256 over ``"cactus-mesh/model/1" 0x00 "dtype=" dtype "\\n"`` and then, for each file that makes the
model what it is, in order of its name's UTF-8 bytes: ``name 0x00 size-in-decimal 0x00 SHA-256-in-hex "\\n"``.  Names
are relative, with forward slashes.  The files: those of `IDENTITY_FILES` that exist, ``*.jinja`` in the folder
``additional_chat_templates``, and the weights: ``model.safetensors``, or else ``model.safetensors.index.json`` with all
that it names.  Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cactus_mesh.errors import ModelMalformed, ModelMissing, ModelRefused, ModelUnsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

SELFTEST_NAME: Final = "cactus-selftest"
SELFTEST_WORDS: Final = ("selftest", SELFTEST_NAME)
SELFTEST_FOLDER: Final = Path(__file__).with_name("selftest") / "model"

IDENTITY_FILES: Final = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""All that transformers reads beside the weights of a causal language model and its tokenizer."""
TEMPLATES: Final = "additional_chat_templates"
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"

_ADAPTER: Final = "adapter_config.json"
_MAY_NAME_CODE: Final = ("config.json", "generation_config.json", "tokenizer_config.json")
_LAYERS: Final = frozenset(
    {"num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"}
)
_MAX_LAYERS: Final = 2_000
"""A network is built to learn its shapes; the deepest have some hundreds."""
_PICKLES: Final = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
_PICKLE_MAGIC: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_MAX_NAME_CHARACTERS: Final = 200  # of a name in an advert
_MAX_JSON_BYTES: Final = 64 << 20
"""Configurations are small; the largest index names some ten thousand tensors."""
_MAX_HEADER_BYTES: Final = 100_000_000  # as in the safetensors format
_BLOCK_BYTES: Final = 1 << 20
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SHARD: Final = re.compile(r"[\w.-]+\.safetensors", re.ASCII)
_LISTED_SHARD: Final = re.compile(r"model-\d+-of-\d+\.safetensors", re.ASCII)
_LISTED_TEMPLATE: Final = re.compile(rf"{TEMPLATES}/[\w-][\w.-]*\.jinja", re.ASCII)

Json = dict[str, object]
Listed = tuple[str, int, str]
"""A file's name, size and SHA-256 in hex."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A checked folder.  *files* are the relative names that make the model what it is."""

    name: str
    path: Path
    files: tuple[str, ...]


def hub_id(word: str) -> str | None:
    """The hub id that *word* is, when it names nothing on this machine."""
    return word if _HUB_ID.fullmatch(word) and not Path(word).exists() else None


def local_folder(word: str) -> tuple[str, Path]:
    """The name and the folder of a model on this machine.  Raises `ModelMissing`."""
    if word in SELFTEST_WORDS:
        return SELFTEST_NAME, SELFTEST_FOLDER
    path = Path(word).expanduser()
    if not path.is_dir():
        raise ModelMissing(
            f"there is no model folder {word!r}; give a folder with config.json and safetensors, "
            "a hub id like owner/name, or selftest for the embedded model"
        )
    return path.resolve().name[:_MAX_NAME_CHARACTERS], path


def check_folder(name: str, path: Path) -> ModelFolder:
    """Raises `ModelRefused`, `ModelUnsupported` or `ModelMalformed`, naming the file and what to do."""
    if (path / _ADAPTER).exists():
        raise _adapter(name)
    named = {file: path / file for file in _MAY_NAME_CODE if (path / file).is_file()}
    check_config(name, {"config.json": path / "config.json"} | named)
    weights = _weights(name, path)
    for file_name in weights:
        if file_name.endswith(".safetensors"):
            _check_safetensors(path / file_name)
    others = [file for file in IDENTITY_FILES if os.path.lexists(path / file)]
    for file in others:
        if not (path / file).is_file():
            raise ModelMalformed(f"{path / file} is no file; get it again, or take it away")
    templates = [f"{TEMPLATES}/{file.name}" for file in (path / TEMPLATES).glob("*.jinja")]
    return ModelFolder(name, path, tuple(sorted((*weights, *others, *templates), key=str.encode)))


def check_config(name: str, paths: Mapping[str, Path]) -> None:
    """What a model's configurations tell about it.  Raises `ModelRefused`, `ModelUnsupported` or `ModelMalformed`."""
    for file in _MAY_NAME_CODE:
        if file in paths and _has_key(_read_json(paths[file]), "auto_map"):
            raise ModelRefused(
                f"{name} wants to run code of its own (auto_map in {file}), and the engine never runs code "
                "that comes with a model; choose a model of an architecture that transformers knows"
            )
    config = _read_json(paths["config.json"])
    for key, value in _settings(config):
        if key.endswith("_implementation") and "/" in str(value):
            raise ModelRefused(
                f"{name} wants to run code of the hub ({key} {value!r} in config.json), and the engine never does; "
                "take that out, which is not the model that was published, or choose another"
            )
        if key in _LAYERS and isinstance(value, (int, float)) and value > _MAX_LAYERS:
            raise ModelMalformed(f"config.json of {name} says {key} {value}; no model has more than {_MAX_LAYERS}")
    _refuse_unsupported(name, config)


def choose_files(name: str, listed: Collection[str]) -> list[str]:
    """Which of the files of a repository make the model.

    Raises `ModelRefused`, `ModelUnsupported` or `ModelMalformed` for one that could never be served.
    """
    if _ADAPTER in listed:
        raise _adapter(name)
    if "config.json" not in listed:
        raise ModelMalformed(f"{name} is no model for transformers: it has no config.json")
    if WEIGHTS in listed:
        weights = [WEIGHTS]
    elif INDEX in listed:
        weights = [INDEX, *filter(_LISTED_SHARD.fullmatch, listed)]
    else:
        raise _without_weights(name, listed)
    templates = filter(_LISTED_TEMPLATE.fullmatch, listed)
    return [*weights, *(file for file in IDENTITY_FILES if file in listed), *templates]


def _adapter(name: str) -> ModelUnsupported:
    return ModelUnsupported(f"{name} is an adapter; merge it into its base model and save that as safetensors")


def _without_weights(name: str, listed: Iterable[str]) -> ModelRefused | ModelMalformed:
    pickles = sorted(file for file in listed if Path(file).suffix in _PICKLES)
    if not pickles:
        return ModelMalformed(f"{name} has no weights: neither {WEIGHTS} nor {INDEX}")
    return ModelRefused(
        f"{name} has its weights only as {', '.join(pickles[:3])}, a format that can run code when it is loaded; "
        "convert it to safetensors, or choose a model that has them"
    )


def model_digest(folder: ModelFolder, dtype: str) -> bytes:
    """Reads every file once, a block at a time."""
    return listing_digest(dtype, listing(folder))


def listing(folder: ModelFolder, read: Callable[[int], object] = int) -> list[Listed]:
    """The files of *folder*.  *read* hears of each block of so many bytes that has been read."""
    return [(name, *_file_digest(folder.path / name, read)) for name in folder.files]


def listing_digest(dtype: str, files: Iterable[Listed]) -> bytes:
    """The digest of a model whose files have these names, sizes and SHA-256 in hex."""
    listing = hashlib.sha256(b"cactus-mesh/model/1\x00" + f"dtype={dtype}\n".encode())
    for name, size, content in sorted(files, key=lambda file: file[0].encode()):
        listing.update(f"{name}\x00{size}\x00{content}\n".encode())
    return listing.digest()


def _file_digest(path: Path, read: Callable[[int], object]) -> tuple[int, str]:
    content, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            content.update(block)
            size += len(block)
            read(len(block))
    return size, content.hexdigest()


def _refuse_unsupported(name: str, config: Json) -> None:
    if config.get("quantization_config") is not None:
        raise ModelUnsupported(f"{name} is quantised; use the unquantised model, or serve it with another engine")
    if config.get("is_encoder_decoder") is True:
        raise ModelUnsupported(f"{name} is an encoder-decoder; the engine runs decoder-only models")
    experts = ("num_experts", "num_local_experts", "n_routed_experts")
    if any(isinstance(count := config.get(key), int) and count > 1 for key in experts):
        raise ModelUnsupported(f"{name} is a mixture of experts, whose work cannot be priced yet; use a dense model")


def _weights(name: str, path: Path) -> list[str]:
    if (path / WEIGHTS).is_file():
        return [WEIGHTS]
    if (path / INDEX).is_file():
        return [INDEX, *_shards(path)]
    raise _without_weights(name, [file.name for file in path.iterdir()])


def _shards(path: Path) -> list[str]:
    weight_map = _read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelMalformed(f"{path / INDEX} names no weights; get the file again")
    shards = sorted({str(shard) for shard in weight_map.values()})
    for shard in shards:
        if not _SHARD.fullmatch(shard) or not (path / shard).is_file():
            raise ModelMalformed(f"{path / INDEX} names {shard!r}, which is not a safetensors file beside it")
    return shards


def _check_safetensors(path: Path) -> None:
    """That the file is one, and whole; the library checks the rest when it loads it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head.startswith(_PICKLE_MAGIC):
            raise ModelRefused(f"{path} is a pickle with another name, which can run code; get real safetensors")
        length = int.from_bytes(head, "little")
        if len(head) < 8 or not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise ModelMalformed(f"{path} is not a safetensors file, or is cut short; get it again")
        end = 8 + length + _data_bytes(path, file.read(length))
    if end != size:
        raise ModelMalformed(f"{path} should have {end} bytes and has {size}; get it again")


def _data_bytes(path: Path, header: bytes) -> int:
    tensors = _parse(path, header)
    tensors.pop("__metadata__", None)
    ends = [0]
    for tensor in tensors.values():
        offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
        if not isinstance(offsets, list) or len(offsets) != 2 or not isinstance(offsets[1], int):
            raise ModelMalformed(f"the header of {path} is not that of safetensors; get the file again")
        ends.append(offsets[1])
    return max(ends)


def _read_json(path: Path) -> Json:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
    except FileNotFoundError:
        raise ModelMalformed(f"{path.parent} is not a model folder: it has no {path.name}") from None
    except OSError as error:
        raise ModelMalformed(f"cannot read {path}: {error.strerror}") from None
    if len(data) > _MAX_JSON_BYTES:
        raise ModelMalformed(f"{path} has more than {_MAX_JSON_BYTES} bytes; it is no configuration")
    return _parse(path, data)


def _parse(path: Path, data: bytes) -> Json:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelMalformed(f"{path} is malformed ({error}); get it again") from None
    if not isinstance(value, dict):
        raise ModelMalformed(f"{path} is malformed (not an object); get it again")
    return value


def _has_key(value: object, key: str) -> bool:
    return any(name == key for name, _ in _settings(value))


def _settings(value: object) -> Iterator[tuple[str, object]]:
    """All keys of *value*, however deep, and what they have."""
    left = [value]
    while left:
        inner = left.pop()
        if isinstance(inner, dict):
            yield from inner.items()
            left += inner.values()
        elif isinstance(inner, list):
            left += inner

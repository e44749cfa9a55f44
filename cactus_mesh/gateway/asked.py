"""What an OpenAI-style request asks of the mesh.  A parameter that the mesh cannot honour is refused by its name.

Refused, not ignored: whoever sets a parameter relies on it.  What is left at the value that changes nothing is fine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from cactus_mesh.errors import RequestMalformed, Unsupported
from cactus_mesh.gateway.faults import Fault
from cactus_mesh.messages import MAX_TOP_LOGPROBS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cactus_mesh.asking import Options

OPENAI_TEMPERATURE: Final = 1.0
"""What the API's users expect when they say nothing."""
_MISSING: Final = object()
_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

_WITHOUT_EFFECT: Final[Mapping[str, Callable[[Any], bool]]] = {
    "n": lambda value: value == 1,
    "best_of": lambda value: value == 1,
    "logprobs": lambda value: value is False,
    "top_logprobs": lambda value: value == 0 and value is not False,
    "logit_bias": lambda value: value == {},
    "echo": lambda value: value is False,
    "suffix": lambda value: value == "",
    "tools": lambda value: value == [],
    "functions": lambda value: value == [],
    "tool_choice": lambda value: value in ("none", "auto"),
    "function_call": lambda value: value in ("none", "auto"),
    "parallel_tool_calls": lambda value: isinstance(value, bool),
    "modalities": lambda value: value == ["text"],
    "service_tier": lambda value: value in ("auto", "default"),
    "store": lambda value: value is False,
    "background": lambda value: value is False,
    "truncation": lambda value: value == "disabled",
    "include": lambda value: value == [],
    "verbosity": lambda value: value == "medium",
    "user": lambda value: True,
    "metadata": lambda value: True,
    "safety_identifier": lambda value: True,
    "prompt_cache_key": lambda value: True,
}
"""Parameters that change nothing at these values; null, too, is as if left out.  The last four are mere labels."""
_SAMPLING: Final = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "frequency_penalty": float,
    "presence_penalty": float,
    "max_price": int,
    "deadline_seconds": float,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, understood.  *work* is a text to continue, or messages to answer."""

    model: str
    work: str | list[dict[str, str]]
    options: Options
    stream: bool
    include_usage: bool


class Parameters:
    """The members of a request's body, each taken once; `finish` refuses what nobody took."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._left = {name: value for name, value in body.items() if value is not None}

    def take(self, name: str, kind: type[Any], default: Any = None) -> Any:
        value = self._left.pop(name, _MISSING)
        if value is _MISSING:
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise malformed(name, f"must be {_WORD_OF[kind]}, not {shown(value)}")
        return value

    def any(self, name: str) -> Any:
        return self._left.pop(name, None)

    def finish(self) -> None:
        for name, value in self._left.items():
            harmless = _WITHOUT_EFFECT.get(name)
            if harmless is None or not harmless(value):
                raise unsupported(name)


_WORD_OF: Final = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", dict: "an object"}


def shown(value: object) -> str:
    """A value in a message, short."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def malformed(param: str, why: str) -> Fault:
    return Fault(RequestMalformed(f"{param} {why}"), param)


def unsupported(param: str, why: str = "") -> Fault:
    return Fault(Unsupported(f"this mesh cannot honour {param!r}{why}; leave it out"), param)


def chat_of(body: Mapping[str, Any]) -> Asked:
    """``/v1/chat/completions``.  Raises a `Fault` that names the parameter."""
    given = Parameters(body)
    messages = given.any("messages")
    if not isinstance(messages, list) or not messages:
        raise malformed("messages", "must be a list of one message or more")
    work = [message_of(message, f"messages[{at}]") for at, message in enumerate(messages)]
    options = options_of(given, "max_completion_tokens", "max_tokens")
    take_logprobs(given, options, wanted=given.take("logprobs", bool, False), by="set logprobs to true")
    take_format(given.any("response_format"), options)
    return _asked(given, work, options)


def completion_of(body: Mapping[str, Any]) -> Asked:
    """``/v1/completions``.  Raises a `Fault` that names the parameter."""
    given = Parameters(body)
    prompt = given.any("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise unsupported("prompt", " unless it is one text") if prompt else malformed("prompt", "must be a string")
    options = options_of(given, "max_tokens")
    _take_text_logprobs(given, options)
    return _asked(given, prompt, options)


@dataclass(frozen=True, slots=True)
class AskedVectors:
    """An understood ``/v1/embeddings``."""

    model: str
    texts: list[str]
    pooling: Literal["cls", "mean"]
    options: Options
    base64: bool


def vectors_of(body: Mapping[str, Any]) -> AskedVectors:
    """``/v1/embeddings``.  Raises a `Fault` that names the parameter."""
    given = Parameters(body)
    texts = given.any("input")
    found = [texts] if isinstance(texts, str) else texts
    if not isinstance(found, list) or not found:
        raise malformed("input", "must be a text or a list of texts")
    if not all(isinstance(each, str) for each in found):
        raise unsupported("input", " as token ids; give texts")
    options: Options = {}
    for name in ("max_price", "deadline_seconds", "max_tokens"):
        value = given.take(name, _SAMPLING.get(name, int))
        if value is not None:
            options[name] = value
    digest = given.take("model_digest", str)
    if digest is not None:
        options["model_digest"] = _digest(digest)
    form = given.take("encoding_format", str, "float")
    if form not in ("float", "base64"):
        raise unsupported("encoding_format", f" {shown(form)}")
    pooling = given.take("pooling", str, "mean")
    if pooling not in ("cls", "mean"):
        raise unsupported("pooling", f" {shown(pooling)}")
    model = model_of(given)
    given.finish()
    return AskedVectors(model, found, pooling, options, form == "base64")


def model_of(given: Parameters) -> str:
    model = given.take("model", str)
    if model is None:
        raise malformed("model", "is missing; GET /v1/models lists what there is")
    return str(model)


def _asked(given: Parameters, work: str | list[dict[str, str]], options: Options) -> Asked:
    model = model_of(given)
    stream = given.take("stream", bool, False)
    extras = Parameters(given.take("stream_options", dict, {}))
    usage = extras.take("include_usage", bool, False)
    extras.take("include_obfuscation", bool)  # padding against eavesdroppers, who are not on loopback
    extras.finish()
    given.finish()
    return Asked(model, work, options, stream, usage)


def options_of(given: Parameters, *most: str) -> Options:
    options: Options = {"temperature": OPENAI_TEMPERATURE}
    for name, kind in _SAMPLING.items():
        value = given.take(name, kind)
        if value is not None:
            options[name] = value  # type: ignore[literal-required]  # the names are those of Options
    for name in most:
        tokens = given.take(name, int)
        if tokens is not None:
            options.setdefault("max_tokens", tokens)
    stop = given.any("stop")
    if stop is not None:
        options["stop"] = _texts(stop)
    digest = given.take("model_digest", str)
    if digest is not None:
        options["model_digest"] = _digest(digest)
    if given.any("seed") is not None and options["temperature"] > 0:
        raise unsupported("seed", " above temperature 0, since no party chooses the seed alone")
    return options


def take_logprobs(given: Parameters, options: Options, *, wanted: bool, by: str) -> None:
    """``top_logprobs``, which only those may set who want log-probabilities *by* something else."""
    top = given.take("top_logprobs", int, 0)
    if not 0 <= top <= MAX_TOP_LOGPROBS:
        raise malformed("top_logprobs", f"must be 0 to {MAX_TOP_LOGPROBS}, not {top}")
    if top and not wanted:
        raise malformed("top_logprobs", f"is for those who {by}")
    if wanted:
        options["top_logprobs"] = top


def _take_text_logprobs(given: Parameters, options: Options) -> None:
    """A number here, where 0 asks for the tokens' own."""
    wanted = given.any("logprobs")
    if wanted is None or wanted is False:
        return
    if type(wanted) is not int or not 0 <= wanted <= MAX_TOP_LOGPROBS:
        raise malformed("logprobs", f"must be a whole number, 0 to {MAX_TOP_LOGPROBS}, not {shown(wanted)}")
    options["top_logprobs"] = wanted


def _texts(stop: object) -> list[str]:
    found = [stop] if isinstance(stop, str) else stop
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise malformed("stop", "must be a string or a list of strings")
    return found


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise malformed("model_digest", "must be 64 hexadecimal digits")
    return digest


def take_format(wanted: object, options: Options) -> None:
    if wanted is None:
        return
    match wanted:
        case {"type": "text", **rest} if not rest:
            pass
        case {"type": "json_object", **rest} if not rest:
            options["json_schema"] = {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": dict() as schema}}:
            options["json_schema"] = schema
        case _:
            raise unsupported("response_format", f" {shown(wanted)}")


def message_of(message: object, where: str) -> dict[str, str]:
    """One turn of a conversation, as the mesh has it."""
    if not isinstance(message, dict):
        raise malformed(where, "must be an object")
    given = {name: value for name, value in message.items() if value is not None and value != []}
    role = given.pop("role", None)
    if role not in _ROLES:
        raise unsupported(f"{where}.role", f" {shown(role)}")
    content = text_of(given.pop("content", None), f"{where}.content")
    for name in given:
        raise unsupported(f"{where}.{name}")
    return {"role": _ROLES[role], "content": content}


def text_of(content: object, where: str) -> str:
    """A text, or the texts of its parts one after another."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise malformed(where, "must be a text or a list of parts")
    texts = []
    for at, part in enumerate(content):
        match part:
            case {"type": "text" | "input_text" | "output_text", "text": str() as text}:
                texts.append(text)
            case {"type": str() as kind}:
                raise unsupported(f"{where}[{at}]", f" of type {shown(kind)}")
            case _:
                raise malformed(f"{where}[{at}]", "must be an object with a type")
    return "".join(texts)

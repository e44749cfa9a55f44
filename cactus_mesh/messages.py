"""What travels between peers: the signed envelope, every typed body, and the unsigned items of a task's stream.

Bytes become typed values here and nowhere else.  Decoding is bounded and strict: one accepted encoding per value, no
unknown field, no trailing byte.  Specified in docs/protocol.md, with vectors in tests/vectors/.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, Literal, NewType, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from cactus_mesh import identity as ids
from cactus_mesh.errors import (
    MessageBadSignature,
    MessageExpired,
    MessageFromFuture,
    MessageMalformed,
    MessageMisdirected,
    MessageNotCanonical,
    MessageOverload,
    MessageReplayed,
    MessageTooLarge,
    MessageUnknownType,
    MessageUnknownVersion,
    MessageWrongSender,
    UsageError,
)
from cactus_mesh.identity import Identity, PublicKey

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION: Final = 1
MAX_MESSAGE_BYTES: Final = 1 << 20
"""One signed message.  The largest is a receipt of `MAX_TOKENS` tokens (9 bytes each) that carries its delegates'."""
MAX_PROMPT_CHARACTERS: Final = 200_000
MAX_TOKENS: Final = 16_384
MAX_INPUTS: Final = 256
"""Texts of one task that are embedded, classified or ranked."""
MOST_PLACES: Final = 8
"""Texts that are read again in one audit: who has made up half of an answer is found in 255 of 256."""
MOST_NUMBERS: Final = 131_072
"""In one finding, 4 bytes each: half of a message."""
MAX_PARTIAL_CHARACTERS: Final = 65_536
"""Of a text that is continued elsewhere; with its prompt it must fit into one order."""
MAX_CONSTRAINT_CHARACTERS: Final = 20_000
MAX_TOP_LOGPROBS: Final = 20
"""Of the tokens that might have come in one's place; what OpenAI's API allows."""
MAX_PIECE_BYTES: Final = 512
"""Of a token beside its likelihood.  The longest tokens of real vocabularies have some hundred."""
MAX_LIKELIHOODS: Final = 64
"""In one chunk: with a token's `MAX_TOP_LOGPROBS` at their longest, and its text, it is still one message."""
MAX_CHAIN: Final = 3
"""Delegations in one task.  Each adds a hop of latency and a share of the price; nobody needs more."""
MAX_CLOCK_SKEW_MS: Final = 30_000
MAX_VALIDITY_MS: Final = 3_600_000

TaskId = NewType("TaskId", bytes)

_U63 = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # also exact in languages whose integers are signed
_U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
_Bps = Annotated[int, Meta(ge=0, le=10_000)]
_Id16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Key = Annotated[PublicKey, Meta(min_length=32, max_length=32)]
_Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
_Name = Annotated[str, Meta(min_length=1, max_length=200)]
_Label = Annotated[str, Meta(max_length=200)]
_Reason = Annotated[str, Meta(max_length=1000)]
_Multiaddr = Annotated[str, Meta(min_length=1, max_length=400)]
_Envelope = Annotated[bytes, Meta(max_length=MAX_MESSAGE_BYTES)]
_Tokens = Annotated[list[_U32], Meta(max_length=MAX_TOKENS)]

Role = Literal["bootstrap", "client", "orchestrator", "relay", "router"]
WorkKind = Literal["chat", "classify", "embed", "generate", "rerank"]
Ending = Literal["length", "stop", "stop_string"]
FinishReason = Literal["cancelled", "length", "stop", "stop_string"]
"""How an answer ends of itself; or ``cancelled``, when its client had it ended."""


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything decoded from a peer."""


class Body(_Struct, frozen=True):
    """Base of the bodies that travel in a signed envelope."""


# --- signed bodies ---------------------------------------------------------------------------------------------


class Hello(Body, frozen=True):
    """First words on every connection.  Peers of another network, contract or version part here, by name."""

    network: _Name
    chain_id: _U32
    contract: _Hash
    version: _U32
    roles: Annotated[list[Role], Meta(max_length=5)]
    agent: _Label


class PriceTerms(_Struct, frozen=True):
    """What an orchestrator asks, in octas: a base per task and a rate per thousand input and output tokens."""

    base: _U63
    input_per_1k: _U63
    output_per_1k: _U63


class ModelShape(_Struct, frozen=True):
    """What a model's work is computed from (see `core.pricing.complexity`)."""

    matmul_parameters: _U63
    layers: _U32
    heads: _U32
    head_dim: _U32


class ModelOffer(_Struct, frozen=True):
    """One model that an orchestrator serves.  The digest covers config, tokenizer and weights; dtype is part of it."""

    name: _Name
    digest: _Hash
    dtype: Annotated[str, Meta(max_length=16)]
    context_tokens: _U32
    kinds: Annotated[list[WorkKind], Meta(min_length=1, max_length=8)]
    shape: ModelShape
    price: PriceTerms


class Advert(Body, frozen=True):
    """A peer's signed, expiring word on itself; the record behind its DHT provider records."""

    sequence: _U63
    roles: Annotated[list[Role], Meta(min_length=1, max_length=5)]
    addresses: Annotated[list[_Multiaddr], Meta(max_length=16)]
    models: Annotated[list[ModelOffer], Meta(max_length=32)]
    slots: _U32
    busy: _U32
    region: _Label
    engine: _Label


class Constraint(_Struct, frozen=True):
    """What the whole text must be like: a regular expression, or a JSON schema as JSON."""

    kind: Literal["json_schema", "regex"]
    text: Annotated[str, Meta(min_length=1, max_length=MAX_CONSTRAINT_CHARACTERS)]


class Sampling(_Struct, frozen=True):
    """How tokens are chosen.  Thousandths, so that no float is ever signed; temperature 0 is greedy."""

    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    temperature_milli: Annotated[int, Meta(ge=0, le=5_000)] = 0
    top_p_milli: Annotated[int, Meta(ge=1, le=1_000)] = 1_000
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    stop: Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=8)] = []
    min_p_milli: Annotated[int, Meta(ge=0, le=1_000)] = 0
    repetition_milli: Annotated[int, Meta(ge=100, le=10_000)] = 1_000
    frequency_milli: Annotated[int, Meta(ge=-2_000, le=2_000)] = 0
    presence_milli: Annotated[int, Meta(ge=-2_000, le=2_000)] = 0
    constraint: Constraint | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | UnsetType = UNSET
    """Whether the stream tells how likely each token was, and how many others to tell beside it.  Left out, not nil,
    when nobody asks: such sampling is encoded, and has the digest, that it had before there was this field."""


class Generate(_Struct, frozen=True, tag_field="kind", tag="generate"):
    """Continue a text."""

    prompt: Annotated[str, Meta(max_length=MAX_PROMPT_CHARACTERS)]


class ChatMessage(_Struct, frozen=True):
    role: Literal["assistant", "system", "user"]
    content: Annotated[str, Meta(max_length=MAX_PROMPT_CHARACTERS)]


class Chat(_Struct, frozen=True, tag_field="kind", tag="chat"):
    """Answer a conversation, in the model's own chat template."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=256)]


_Text = Annotated[str, Meta(max_length=MAX_PROMPT_CHARACTERS)]
_Inputs = Annotated[list[_Text], Meta(min_length=1, max_length=MAX_INPUTS)]


class Embed(_Struct, frozen=True, tag_field="kind", tag="embed"):
    """A vector of length 1 for each text: the mean of its tokens' last states, or the first token's."""

    inputs: _Inputs
    pooling: Literal["cls", "mean"] = "mean"


class Classify(_Struct, frozen=True, tag_field="kind", tag="classify"):
    """The probability of each of the model's labels, for each text."""

    inputs: _Inputs


class Rerank(_Struct, frozen=True, tag_field="kind", tag="rerank"):
    """How well each document answers the query, as the model's own score."""

    query: Annotated[str, Meta(max_length=MAX_PROMPT_CHARACTERS)]
    documents: _Inputs


Work = Generate | Chat | Embed | Classify | Rerank


_KINDS: Final[dict[type, WorkKind]] = {
    Generate: "generate",
    Chat: "chat",
    Embed: "embed",
    Classify: "classify",
    Rerank: "rerank",
}


PIECE_CHARACTERS: Final = 1_000
"""Of each token but the last, where a text is read and not continued; a router passes on at most 1,024 for a token."""


def kind_of(work: Work) -> WorkKind:
    return _KINDS[type(work)]


def texts_of(work: Work) -> list[str]:
    """Everything in *work* that a model reads."""
    match work:
        case Generate():
            return [work.prompt]
        case Chat():
            return [message.content for message in work.messages]
        case Embed() | Classify():
            return work.inputs
        case Rerank():
            return [piece for document in work.documents for piece in (work.query, document)]


class TaskRequest(Body, frozen=True):
    """A client's order to one router, which checks this envelope; ``consent`` is what the ledger checks."""

    task_id: _Id16
    nonce: _Id16
    model: _Name
    model_digest: _Hash | None
    work: Work
    sampling: Sampling
    max_price: _U63
    deadline_ms: _U63
    consent: Annotated[bytes, Meta(max_length=512)]
    consent_signature: _Signature


class Partial(_Struct, frozen=True):
    """What an orchestrator that is lost has streamed of a task: the next one goes on from here, with the same seed."""

    token_ids: Annotated[list[_U32], Meta(min_length=1, max_length=MAX_TOKENS)]
    text: Annotated[str, Meta(max_length=MAX_PARTIAL_CHARACTERS)]


class Assignment(Body, frozen=True):
    """A router gives a task to the orchestrator named as the envelope's recipient, on the terms of its offer.

    All assignments of one task have the same ``router_nonce``, so that every orchestrator makes the same tokens.
    """

    task_id: _Id16
    request_hash: _Hash
    router_nonce: _Id16
    attempt: _U32
    offer: ModelOffer
    done_by_ms: _U63
    partial: Partial | None


class Delegation(Body, frozen=True):
    """An orchestrator hands its order on to the envelope's recipient and stays liable for the result."""

    task_id: _Id16
    parent_hash: _Hash
    depth: Annotated[int, Meta(ge=1, le=MAX_CHAIN)]
    max_price: _U63
    share_bps: _Bps
    done_by_ms: _U63
    partial: Partial | None


class Acceptance(Body, frozen=True):
    """An orchestrator takes the order; sent before the first token."""

    task_id: _Id16
    order_hash: _Hash


class Receipt(Body, frozen=True):
    """An orchestrator's signed account of what it did.  ``claim`` is the part the ledger settles on."""

    task_id: _Id16
    order_hash: _Hash
    model_digest: _Hash
    dtype: Annotated[str, Meta(max_length=16)]
    prompt_hash: _Hash
    sampling_hash: _Hash
    token_ids: _Tokens
    logprobs: Annotated[bytes, Meta(max_length=4 * MAX_TOKENS)]
    text_hash: _Hash
    finish: FinishReason
    prompt_tokens: _U32
    compute_ms: _U63
    engine: _Label
    claim: Annotated[bytes, Meta(max_length=1024)]
    claim_signature: _Signature
    delegate_receipt: _Envelope | None


class Verdict(Body, frozen=True):
    """A router's signed judgement of a receipt.  ``failed_checks`` are names from `core.verification` and `core.audit`.

    ``draw_secret`` is what the assignment's ``router_nonce`` committed to; with the receipt it decides whether the
    answer is audited (`core.draws`).
    """

    task_id: _Id16
    receipt_hash: _Hash
    result: Literal["fail", "inconclusive", "pass"]
    replayed: bool
    failed_checks: Annotated[list[_Label], Meta(max_length=32)]
    draw_secret: _Hash
    audit_ppm: Annotated[int, Meta(ge=0, le=1_000_000)]


class Audit(Body, frozen=True, omit_defaults=True):
    """A router asks a verifier to replay an answer.  It names neither the task nor anybody who had a part in it.

    Of texts that are read whole, ``places`` are those to be read again.  Else it is left out: such an audit is encoded
    as it was before there was this field, so evidence of that time can be read.
    """

    model_digest: _Hash
    dtype: Annotated[str, Meta(max_length=16)]
    work: Work
    sampling: Sampling
    seed: _Hash
    token_ids: Annotated[list[_U32], Meta(min_length=1, max_length=MAX_TOKENS)]
    places: Annotated[list[_U32], Meta(max_length=MOST_PLACES)] = []


class Finding(Body, frozen=True, omit_defaults=True):
    """A verifier's signed numbers for an audit: one log-probability and one gap per token (see `ports.Replay`).

    Of texts that were read again ``numbers`` has a row for each (see `ports.Rereading`), in place of those two; else
    it is left out.
    """

    audit_hash: _Hash
    logprobs: Annotated[bytes, Meta(max_length=4 * MAX_TOKENS)]
    gaps: Annotated[bytes, Meta(max_length=4 * MAX_TOKENS)]
    text_hash: _Hash
    finish: Ending | None
    prompt_tokens: _U32
    engine: _Label
    numbers: Annotated[bytes, Meta(max_length=4 * MOST_NUMBERS)] = b""


class Outcome(Body, frozen=True):
    """A router's gossip on one finished task; counts only from a router authorised on the ledger."""

    task_id: _Id16
    orchestrator: _Key
    delegate: _Key | None
    model_digest: _Hash
    result: Literal["completed", "failed", "rejected", "timed_out"]
    complexity: _U63
    compute_ms: _U63
    first_token_ms: _U63


class Cancel(Body, frozen=True):
    """The client's word that a task is no longer wanted."""

    task_id: _Id16
    reason: _Reason


B = TypeVar("B", bound=Body)

TYPES: Final[dict[str, type[Body]]] = {
    "hello": Hello,
    "advert": Advert,
    "task_request": TaskRequest,
    "assignment": Assignment,
    "delegation": Delegation,
    "acceptance": Acceptance,
    "receipt": Receipt,
    "verdict": Verdict,
    "audit": Audit,
    "finding": Finding,
    "outcome": Outcome,
    "cancel": Cancel,
}
_NAME_OF: Final[dict[type[Body], str]] = {body: name for name, body in TYPES.items()}
_DECODER_OF: Final[dict[type[Body], msgspec.msgpack.Decoder[Any]]] = {
    body: msgspec.msgpack.Decoder(body) for body in TYPES.values()
}


# --- the envelope ----------------------------------------------------------------------------------------------


class _Header(_Struct, frozen=True):
    type: Annotated[str, Meta(max_length=32)]
    sender: _Key
    recipient: _Key | None
    message_id: _Id16
    issued_at_ms: _U63
    expires_at_ms: _U63


class _EnvelopeMap(_Struct, frozen=True):
    v: _U32
    header: Annotated[bytes, Meta(max_length=256)]
    body: Annotated[bytes, Meta(max_length=MAX_MESSAGE_BYTES)]
    signature: _Signature


class _JustVersion(msgspec.Struct):
    v: int


_encode = msgspec.msgpack.Encoder().encode
_envelopes = msgspec.msgpack.Decoder(_EnvelopeMap)
_headers = msgspec.msgpack.Decoder(_Header)


@dataclass(frozen=True, slots=True)
class Sealed(Generic[B]):
    """A message whose signature has been checked, beside the very bytes that were signed."""

    body: B
    sender: PublicKey
    recipient: PublicKey | None
    message_id: bytes
    issued_at_ms: int
    expires_at_ms: int
    raw: bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 of the whole envelope: how other messages refer to this one."""
        return hashlib.sha256(self.raw).digest()


def _signed_bytes(type_name: str, header: bytes, body: bytes) -> bytes:
    prefix = f"cactus-mesh/{VERSION}/{type_name}".encode() + b"\x00"
    return prefix + len(header).to_bytes(4, "big") + header + body


def seal(
    body: B,
    identity: Identity,
    *,
    now_ms: int,
    valid_ms: int,
    recipient: PublicKey | None = None,
    message_id: bytes | None = None,
) -> Sealed[B]:
    """Sign *body*; ``.raw`` of the result is what to send.  A message is valid for at most `MAX_VALIDITY_MS`."""
    if not 0 < valid_ms <= MAX_VALIDITY_MS:
        raise UsageError(f"a message is valid for 1 to {MAX_VALIDITY_MS} ms, not {valid_ms}")
    name = _NAME_OF[type(body)]
    header = _Header(
        type=name,
        sender=identity.public_key,
        recipient=recipient,
        message_id=message_id if message_id is not None else secrets.token_bytes(16),
        issued_at_ms=now_ms,
        expires_at_ms=now_ms + valid_ms,
    )
    header_bytes, body_bytes = _encode(header), _encode(body)
    signature = identity.sign(_signed_bytes(name, header_bytes, body_bytes))
    raw = _encode(_EnvelopeMap(VERSION, header_bytes, body_bytes, signature))
    if len(raw) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(f"this {name} has {len(raw)} bytes; send at most {MAX_MESSAGE_BYTES}")
    return Sealed(
        body, identity.public_key, recipient, header.message_id, header.issued_at_ms, header.expires_at_ms, raw
    )


def unseal(
    data: bytes,
    kind: type[B],
    *,
    now_ms: int | None,
    sender: PublicKey | None = None,
    recipient: PublicKey | None = None,
) -> Sealed[B]:
    """Check and open a message of type *kind*.

    *now_ms* None skips the clock checks, for evidence that is read later.  *sender* and *recipient*, when given, must
    be the message's own.  Replay is the caller's to check, with a `ReplayCache`, on messages that act.
    Raises a `MessageError` subclass, one per cause, and nothing else.
    """
    header, envelope = _open_envelope(data)
    if TYPES.get(header.type) is not kind:
        raise MessageUnknownType(f"expected a {_NAME_OF[kind]} message, got {header.type!r}")
    if sender is not None and header.sender != sender:
        raise MessageWrongSender(f"this {header.type} is signed by another key than the peer that sent it")
    if recipient is not None and header.recipient != recipient:
        raise MessageMisdirected(f"this {header.type} is addressed to another peer")
    if now_ms is not None:
        _check_clock(header, now_ms)
    key = PublicKey(header.sender)
    if not ids.verify(key, _signed_bytes(header.type, envelope.header, envelope.body), envelope.signature):
        raise MessageBadSignature(f"the signature of this {header.type} does not match its sender and content")
    body: B = _decode_canonical(_DECODER_OF[kind], envelope.body, header.type)
    to = None if header.recipient is None else PublicKey(header.recipient)
    return Sealed(body, key, to, header.message_id, header.issued_at_ms, header.expires_at_ms, data)


def _open_envelope(data: bytes) -> tuple[_Header, _EnvelopeMap]:
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(f"a message has at most {MAX_MESSAGE_BYTES} bytes, this one {len(data)}")
    try:
        envelope = _envelopes.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _why_not_an_envelope(data, error) from None
    if envelope.v != VERSION:
        raise MessageUnknownVersion(_unknown_version(envelope.v))
    if _encode(envelope) != data:
        raise MessageNotCanonical("this envelope is not in the one accepted encoding")
    return _decode_canonical(_headers, envelope.header, "header"), envelope


def _unknown_version(version: int) -> str:
    return f"message version {version} is not {VERSION}; the older of the two peers should update cactus-mesh"


def _why_not_an_envelope(data: bytes, error: Exception) -> MessageMalformed | MessageUnknownVersion:
    """A later version may have other fields; then its number is the useful thing to say."""
    try:
        version = msgspec.msgpack.decode(data, type=_JustVersion).v
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        version = VERSION
    if version != VERSION:
        return MessageUnknownVersion(_unknown_version(version))
    return MessageMalformed(f"not a message: {error}")


def _check_clock(header: _Header, now_ms: int) -> None:
    if header.expires_at_ms <= now_ms:
        late = (now_ms - header.expires_at_ms) / 1000
        raise MessageExpired(f"this {header.type} expired {late:.0f} s ago; if it was just made, check both clocks")
    if header.issued_at_ms > now_ms + MAX_CLOCK_SKEW_MS:
        ahead = (header.issued_at_ms - now_ms) / 1000
        raise MessageFromFuture(f"this {header.type} was issued {ahead:.0f} s in the future; check both clocks")
    if header.expires_at_ms - header.issued_at_ms > MAX_VALIDITY_MS:
        raise MessageFromFuture(f"this {header.type} claims to be valid for longer than {MAX_VALIDITY_MS} ms")


T = TypeVar("T")


def _decode_canonical(decoder: msgspec.msgpack.Decoder[T], data: bytes, what: str) -> T:
    """Decode and demand that encoding again gives the same bytes: no duplicate keys, no padded integers."""
    try:
        value = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageMalformed(f"malformed {what}: {error}") from None
    if _encode(value) != data:
        raise MessageNotCanonical(f"this {what} is not in the one accepted encoding")
    return value


# --- unsigned: what a task's calls and streams carry, bound by the receipt -----------------------------------------


class Order(_Struct, frozen=True):
    """All that an orchestrator needs to judge an order: the request and the signed chain that leads to it.

    Each link names the one before it by hash, so the prompt travels once however long the chain is.
    """

    request: _Envelope
    assignment: _Envelope
    delegations: Annotated[list[_Envelope], Meta(max_length=MAX_CHAIN)] = []


class Accepted(_Struct, frozen=True, tag_field="item", tag="accepted"):
    acceptance: _Envelope


class Progress(_Struct, frozen=True, tag_field="item", tag="progress"):
    """Who works on the task now.  Sent again when a router moves on to the next orchestrator."""

    orchestrator: _Key
    attempt: _U32


_BitsOfTokens = Annotated[int, Meta(ge=0, le=2 ** (MAX_TOP_LOGPROBS + 1) - 1)]


class Likelihood(_Struct, frozen=True):
    """How likely a token was that was chosen, which comes first, and those that were likeliest in its place.

    ``logprobs`` has a little-endian f32 for each.  ``pieces`` are their bytes, or the name of a special token, which
    gives no text: those have their bit set in ``special``, the first token's is the lowest.
    """

    token_ids: Annotated[list[_U32], Meta(min_length=1, max_length=MAX_TOP_LOGPROBS + 1)]
    logprobs: Annotated[bytes, Meta(max_length=4 * (MAX_TOP_LOGPROBS + 1))]
    pieces: Annotated[
        list[Annotated[bytes, Meta(max_length=MAX_PIECE_BYTES)]], Meta(min_length=1, max_length=MAX_TOP_LOGPROBS + 1)
    ]
    special: _BitsOfTokens


class Chunk(_Struct, frozen=True, omit_defaults=True, tag_field="item", tag="chunk"):
    """Tokens ``start .. start + len(token_ids)`` of a task and the text that they complete.

    Where the request asks for log-probabilities, ``likelihoods`` has one for each token; else it is empty.
    """

    task_id: _Id16
    start: _U32
    token_ids: _Tokens
    text: Annotated[str, Meta(max_length=MAX_MESSAGE_BYTES)]
    likelihoods: Annotated[list[Likelihood], Meta(max_length=MAX_LIKELIHOODS)] = []


class Done(_Struct, frozen=True, tag_field="item", tag="done"):
    """The end of a stream, with its evidence: the chain, the receipt and, from a router, its verdict."""

    assignment: _Envelope
    delegations: Annotated[list[_Envelope], Meta(max_length=MAX_CHAIN)]
    receipt: _Envelope
    verdict: _Envelope | None


StreamItem = Accepted | Progress | Chunk | Done


class Listed(_Struct, frozen=True):
    """A model that a router can place now: its best offer, by how many, and the highest of each of their prices."""

    offer: ModelOffer
    orchestrators: _U32
    dearest: PriceTerms


class Catalogue(_Struct, frozen=True):
    """What a router says it can place.  Hearsay: what a task may cost is bounded by its own maximum price."""

    models: Annotated[list[Listed], Meta(max_length=256)]


_orders = msgspec.msgpack.Decoder(Order)
_catalogues = msgspec.msgpack.Decoder(Catalogue)
_items: msgspec.msgpack.Decoder[StreamItem] = msgspec.msgpack.Decoder(StreamItem)


def encode_unsigned(value: Order | StreamItem | Catalogue) -> bytes:
    return _encode(value)


def decode_order(data: bytes) -> Order:
    """Raises `MessageMalformed`."""
    return _decode_unsigned(_orders, data, "order")


def decode_item(data: bytes) -> StreamItem:
    """Raises `MessageMalformed`."""
    return _decode_unsigned(_items, data, "stream item")


def decode_catalogue(data: bytes) -> Catalogue:
    """Raises `MessageMalformed`."""
    return _decode_unsigned(_catalogues, data, "list of models")


def _decode_unsigned(decoder: msgspec.msgpack.Decoder[T], data: bytes, what: str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageMalformed(f"malformed {what}: {error}") from None


# --- digests that several parties must agree on ----------------------------------------------------------------


def work_digest(work: Work) -> bytes:
    """SHA-256 over the canonical encoding of the work: the receipt's ``prompt_hash``."""
    return hashlib.sha256(b"cactus-mesh/prompt/1\x00" + _encode(work)).digest()


def sampling_digest(sampling: Sampling) -> bytes:
    return hashlib.sha256(b"cactus-mesh/sampling/1\x00" + _encode(sampling)).digest()


def output_digest(token_ids: Sequence[int]) -> bytes:
    """SHA-256 over the token ids as little-endian u32: the ``result_hash`` that the ledger keeps."""
    packed = b"".join(token.to_bytes(4, "little") for token in token_ids)
    return hashlib.sha256(b"cactus-mesh/output/1\x00" + packed).digest()


def text_digest(text: str) -> bytes:
    return hashlib.sha256(b"cactus-mesh/text/1\x00" + text.encode()).digest()


def seed_of(nonce: bytes, router_nonce: bytes, task_id: bytes) -> bytes:
    """The sampling seed: neither the client nor the router nor the orchestrator chooses it alone."""
    return hashlib.sha256(b"cactus-mesh/seed/1\x00" + nonce + router_nonce + task_id).digest()


# --- replay ----------------------------------------------------------------------------------------------------


class ReplayCache:
    """Remembers message ids until they expire.

    A sender at its bound is refused rather than forgotten.  Beyond `MAX_SENDERS` or `MAX_MESSAGES` the sender heard
    longest ago is forgotten: an acting message must come from its signer's own authenticated connection, so the only
    peer that this would let replay is the signer itself, and the duplicate task id then stops it.
    """

    MAX_PER_SENDER = 32_768  # 250 messages a second for the two minutes that a request stays valid
    MAX_SENDERS = 4_096
    MAX_MESSAGES = 500_000  # of all senders, about 120 MB: identities cost nothing

    def __init__(self) -> None:
        self._seen: OrderedDict[PublicKey, _Seen] = OrderedDict()
        self._count = 0

    def admit(self, message: Sealed[B], now_ms: int) -> None:
        """Raises `MessageReplayed` or, when the sender is at its bound, `MessageOverload`."""
        seen = self._seen.setdefault(message.sender, _Seen())
        self._seen.move_to_end(message.sender)
        self._count -= seen.forget_expired(now_ms)
        if message.message_id in seen.ids:
            raise MessageReplayed("this message was received before; make a new one instead of sending it again")
        if len(seen.ids) >= self.MAX_PER_SENDER:
            raise MessageOverload("too many messages from this sender; slow down")
        seen.add(message.message_id, message.expires_at_ms)
        self._count += 1
        while len(self._seen) > self.MAX_SENDERS or self._count > self.MAX_MESSAGES:
            self._count -= len(self._seen.popitem(last=False)[1].ids)


class _Seen:
    """The unexpired messages of one sender."""

    __slots__ = ("_by_expiry", "ids")

    def __init__(self) -> None:
        self.ids: set[bytes] = set()
        self._by_expiry: list[tuple[int, bytes]] = []

    def add(self, message_id: bytes, expires_at_ms: int) -> None:
        self.ids.add(message_id)
        heappush(self._by_expiry, (expires_at_ms, message_id))

    def forget_expired(self, now_ms: int) -> int:
        """How many there were."""
        before = len(self.ids)
        while self._by_expiry and self._by_expiry[0][0] <= now_ms:
            self.ids.discard(heappop(self._by_expiry)[1])
        return before - len(self.ids)

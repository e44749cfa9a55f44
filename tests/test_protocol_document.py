"""docs/protocol.md describes what the code does: every field of every message, every number that can be read off."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import msgspec
import pytest

from cactus_mesh import auditing, directory, dispatch, messages, router, topics, verifying
from cactus_mesh.core import (
    adverts,
    audit,
    draws,
    exhibits,
    likelihoods,
    readings,
    requests,
    routing,
    serving,
    settlement,
    suspicion,
    verification,
)
from cactus_mesh.messages import TYPES
from cactus_mesh.net import dialback, discovery, frames, relayed

DOCUMENT = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^###? (.+?)\n(.*?)(?=^###? |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL))

NAMED_OTHERWISE = {
    "envelope": messages._EnvelopeMap,
    "header": messages._Header,
    "offer": messages.ModelOffer,
    "shape": messages.ModelShape,
    "price": messages.PriceTerms,
    "generate": messages.Generate,
    "chat": messages.Chat,
    "chat message": messages.ChatMessage,
    "embed": messages.Embed,
    "classify": messages.Classify,
    "rerank": messages.Rerank,
    "sampling": messages.Sampling,
    "partial": messages.Partial,
    "constraint": messages.Constraint,
    "order": messages.Order,
    "accepted": messages.Accepted,
    "progress": messages.Progress,
    "chunk": messages.Chunk,
    "likelihood": messages.Likelihood,
    "done": messages.Done,
    "catalogue": messages.Catalogue,
    "listed": messages.Listed,
}
STRUCTS = {**TYPES, **NAMED_OTHERWISE}
BCS = {
    "consent": settlement.TaskConsent,
    "claim": settlement.SettlementClaim,
    "operator consent": settlement.OperatorConsent,
}


def rows(section):
    """The first column of the tables of a section."""
    return re.findall(r"^\| `([a-z0-9_]+)` \|", SECTIONS[section], re.MULTILINE)


@pytest.mark.parametrize("name", STRUCTS)
def test_a_messages_table_has_its_fields_in_their_order(name):
    assert rows(name) == [field.name for field in msgspec.structs.fields(STRUCTS[name])]


def test_every_struct_of_the_module_is_described():
    decoded = {kind for _, kind in inspect.getmembers(messages, inspect.isclass) if issubclass(kind, messages._Struct)}
    assert decoded == {*STRUCTS.values(), messages._Struct, messages.Body}


@pytest.mark.parametrize("name", BCS)
def test_a_table_of_bcs_has_its_fields_in_their_order(name):
    assert rows(name) == ["domain", *BCS[name].__dataclass_fields__]


def bounds(kind):
    """Every number that a field of *kind* is bounded by, and the words that it may be."""
    found = set()
    pending = [field.type for field in msgspec.inspect.type_info(kind).fields]
    while pending:
        part = pending.pop()
        if isinstance(part, msgspec.inspect.StructType):
            continue
        if isinstance(part, msgspec.inspect.UnionType):
            pending += part.types
        if isinstance(part, msgspec.inspect.ListType):
            pending.append(part.item_type)
        if isinstance(part, msgspec.inspect.LiteralType):
            found |= set(part.values)
        if isinstance(part, msgspec.inspect.IntType) and part.le not in (2**63 - 1, 2**32 - 1):
            found |= {str(part.le)}
        if isinstance(part, msgspec.inspect.StrType | msgspec.inspect.BytesType | msgspec.inspect.ListType):
            found |= {str(part.max_length)}
    return found - {"None"}


@pytest.mark.parametrize("name", STRUCTS)
def test_a_messages_bounds_and_words_stand_in_its_section(name):
    section = SECTIONS[name].replace("key", "bytes[32]").replace("[role]", SECTIONS["hello"])
    assert {bound for bound in bounds(STRUCTS[name]) if bound not in section} == set()


def words(number):
    return f"{number:,}"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("The envelope", words(messages.MAX_MESSAGE_BYTES)),
        ("header", words(messages.MAX_CLOCK_SKEW_MS)),
        ("header", words(messages.MAX_VALIDITY_MS)),
        ("header", words(messages.ReplayCache.MAX_PER_SENDER)),
        (
            "The request",
            f"at most {requests.MAX_CONSENT_SECONDS} s beyond the deadline",
        ),
        ("done", f"{words(routing.MAX_CHARACTERS_PER_TOKEN)} characters"),
        ("The receipt", f"{verification.TEMPLATE_TOKENS_PER_MESSAGE} for each message"),
        ("The receipt", f"{words(verification.CLOCK_SLACK_MS)} ms"),
        ("Log-probabilities", f"above {1 + likelihoods._ROUNDING:g}"),
        ("Log-probabilities", f"above {likelihoods._MOST:g}"),
        ("likelihood", f"[bytes≤{messages.MAX_PIECE_BYTES}]"),
        ("Who waits for whom", f"{routing.Patience().accept_ms // 1_000} s to accept"),
        ("Who waits for whom", f"{routing.Patience().first_token_ms // 1_000} s to the first token"),
        ("Who waits for whom", f"{routing.Patience().stall_ms // 1_000} s between tokens"),
        ("Who waits for whom", f"{serving.DELEGATE_DEADLINE_MS} ms before"),
        ("Gossip", topics.adverts_topic("<network>", "<model>")),
        ("Gossip", topics.outcomes_topic("<network>")),
        ("Gossip", f"max({adverts.MIN_HEARTBEAT_SECONDS:g} s, peers seen / {adverts.ADVERTS_PER_SECOND:g} per second)"),
        ("Gossip", f"at most {words(int(adverts.MAX_HEARTBEAT_SECONDS))} s"),
        ("Discovery", directory.role_key("router")),
        ("Audits", f"`audit.floor` ({draws.AuditPolicy().floor:g})"),
        ("Audits", f"until it has passed {draws.AuditPolicy().newcomer_audits} audits"),
        ("Audits", f"rate is below {words(draws.LEAST_PPM)}"),
        ("Audits", f"at most {draws.AuditPolicy().pay_within_seconds:g} s"),
        ("Audits", "{:g}, {:g}, {:g}, {:g}, {:g} and {:g},".format(*suspicion.RATES)),
        ("Audits", f"newest {exhibits.MAX_EXHIBITS} answers"),
        ("Audits", f"at least {audit.LEAST_MISMATCHES} tokens"),
        ("rerank", f"1 to {words(readings.MOST_WIDTH)}"),
        ("Methods", f"`{verifying.AUDIT_METHOD}`"),
        ("Methods", f"`{router.SUBMIT_METHOD}`"),
        ("Methods", f"`{router.CANCEL_METHOD}`"),
        ("Methods", f"`{router.MODELS_METHOD}`"),
        ("Methods", f"`{dispatch.RUN_METHOD}`"),
        ("Methods", f"`{directory.ADVERT_METHOD}`"),
        ("Methods", f"`{dialback.METHOD}`"),
        ("Methods", f"1\N{EN DASH}{dialback.MAX_ENDPOINTS} endpoints"),
        ("Methods", f"within {dialback.DIAL_SECONDS:.0f} s"),
        ("Methods", f"{dialback.BURST} times at once and then every {1 / dialback.PER_SECOND:.0f} s"),
        ("Discovery", f"`{discovery.PEER_KEY}<peer id>`"),
        ("Discovery", f"`{relayed.RELAY_KEY}`"),
        ("consent", settlement.CONSENT_DOMAIN.decode()),
        ("claim", settlement.CLAIM_DOMAIN.decode()),
        ("operator consent", settlement.OPERATOR_DOMAIN.decode()),
        ("Frames", words(frames._MAX_FRAME_BYTES)),
        ("Frames", words(frames.MAX_ITEMS)),
    ],
    ids=str,
)
def test_a_number_or_name_is_the_codes(section, said):
    assert said in SECTIONS[section]


def test_every_kind_of_frame_is_listed_with_its_number():
    kinds = {name: value for name, value in vars(frames).items() if name.isupper() and type(value) is int}
    listed = dict(re.findall(r"^\| (\d+) \| ([A-Z]+) \|", SECTIONS["Frames"], re.MULTILINE))
    assert {name: int(number) for number, name in listed.items()} == {
        name: value for name, value in kinds.items() if not name.startswith(("MAX_", "_"))
    }


def test_every_check_of_an_audit_is_listed():
    sources = inspect.getsource(audit) + inspect.getsource(auditing)
    names = set(re.findall(r'"(replay_[a-z_]+)"', sources))
    assert len(names) == 9
    assert {name for name in names if f"`{name}`" not in SECTIONS["Audits"]} == set()


def test_every_check_of_a_receipt_is_listed():
    tree = ast.parse(inspect.getsource(verification))
    yields = [node.value.elts[0] for node in ast.walk(tree) if isinstance(node, ast.Yield)]
    names = {node.value for node in yields if isinstance(node, ast.Constant)}
    assert {name for name in names if f"`{name}`" not in SECTIONS["The receipt"]} == set()


def test_every_prefix_of_a_digest_is_listed():
    prefixes = re.findall(r'b"(cactus-mesh/[a-z]+/1)\\x00"', inspect.getsource(messages) + inspect.getsource(draws))
    assert len(prefixes) == 8
    assert {prefix for prefix in prefixes if f'`"{prefix}"`' not in SECTIONS["Digests"]} == set()

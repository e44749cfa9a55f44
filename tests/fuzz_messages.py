"""``python -m tests.fuzz_messages [COUNT] [SEED]``: throws COUNT (default 200,000) hostile inputs at every decoder.

An input is a valid message with bytes changed, cut, repeated or swapped in, or msgpack of the right outline with wrong
parts, or noise.  Each must end in the decoder's own error; a valid signature over wrong content must never pass.
Prints one JSON object; exits 1 on the first input that does anything else, and prints that input.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import msgpack

from cactus_mesh.core.settlement import SettlementClaim, TaskConsent
from cactus_mesh.errors import MessageError
from cactus_mesh.messages import TYPES, Chunk, Likelihood, Order, decode_item, decode_order, encode_unsigned, unseal
from tests.samples import CLIENT, NOW_MS, TASK_ID, bodies, consent, sealed

if TYPE_CHECKING:
    from collections.abc import Callable

SCRAPS = (
    b"",
    b"\xc0",
    b"\xc1",
    b"\x80",
    b"\x90",
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xc9" * 9,
    b"\xff",
)


def mutate(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0 if changed:
                changed[place % len(changed)] ^= 1 << rng.randrange(8)
            case 1:
                del changed[place : place + rng.randrange(1, 20)]
            case 2:
                changed[place:place] = rng.choice(SCRAPS)
            case 3:
                changed[place:place] = changed[place : place + rng.randrange(1, 40)]
            case _:
                changed[place:place] = rng.randbytes(rng.randrange(1, 8))
    return bytes(changed)


def resigned(rng: random.Random, raw: bytes) -> bytes:
    """A message whose body or header was changed before it was signed: the decoders behind the signature get it."""
    envelope = msgpack.unpackb(raw)
    part = rng.choice(("header", "body"))
    envelope[part] = mutate(rng, envelope[part])
    try:
        name = msgpack.unpackb(envelope["header"])["type"]
        prefix = f"cactus-mesh/1/{name}".encode() + b"\x00" + len(envelope["header"]).to_bytes(4, "big")
    except Exception:
        prefix = b""
    envelope["signature"] = CLIENT.sign(prefix + envelope["header"] + envelope["body"])
    return msgpack.packb(envelope)


def noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(0, 400))


def decoders() -> list[tuple[str, bytes, Callable[[bytes], object], type[Exception]]]:
    found: list[tuple[str, bytes, Callable[[bytes], object], type[Exception]]] = []
    for name, body in bodies().items():
        kind = TYPES[name]
        found.append(
            (name, sealed(body, name).raw, lambda raw, kind=kind: unseal(raw, kind, now_ms=NOW_MS), MessageError)
        )
    found.append(("order", encode_unsigned(Order(b"a", b"b", [b"c"])), decode_order, MessageError))
    likely = [Likelihood([1, 1, 2], bytes(12), [b"te", b"te", b"<end>"], 4), Likelihood([2], bytes(4), [b"xt"], 0)]
    found.append(("item", encode_unsigned(Chunk(TASK_ID, 0, [1, 2], "text", likely)), decode_item, MessageError))
    found.append(("consent", consent().to_bcs(), TaskConsent.from_bcs, ValueError))
    found.append(("claim", b"\x19cactus_payment::claim::v1" + bytes(300), SettlementClaim.from_bcs, ValueError))
    return found


def fuzz(count: int, seed: int) -> dict[str, object]:
    rng = random.Random(seed)
    targets = decoders()
    refused: Counter[str] = Counter()
    accepted = 0
    for _ in range(count):
        name, valid, decode, expected = rng.choice(targets)
        make = rng.random()
        if make < 0.6:
            data = mutate(rng, valid)
        elif make < 0.85 and name in TYPES:
            data = resigned(rng, valid)
        else:
            data = noise(rng)
        try:
            decode(data)
        except expected as error:
            refused[getattr(error, "code", type(error).__name__)] += 1
        except BaseException:
            print(json.dumps({"seed": seed, "decoder": name, "input": data.hex()}))
            raise
        else:
            accepted += 1  # an unchanged message, or a change that left a valid one (of unsigned or signed-again bytes)
    return {"inputs": count, "seed": seed, "refused": dict(refused.most_common()), "accepted": accepted}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(2**32)
    began = time.perf_counter()
    report = fuzz(count, seed)
    print(json.dumps({**report, "seconds": round(time.perf_counter() - began, 1)}))


if __name__ == "__main__":
    main()

"""``deploy`` from the command line; what it sends is in tests/ledger/test_publish.py."""

from __future__ import annotations

import json

from tests.ledger.test_publish import NAMES, module, payload


def test_an_embedded_ledger_has_the_contract_built_in_and_says_so(person):
    publisher = person("publisher").rich(1)
    modules = [f"0x{module(name, publisher.identity.address).hex()}" for name in NAMES]
    file = publisher.home / "payload.json"
    file.write_text(json.dumps(payload(modules=modules)))
    there = ("--ledger", publisher.chain.devnet.url)
    assert "built in" in publisher.fails("usage", "deploy", str(file), *there)
    assert "built in" in publisher.fails("usage", "deploy", str(file), *there, "--dry-run")
    publisher.fails("ledger.down", "deploy", str(file), "--ledger", "http://127.0.0.1:9")

    other = person("other")
    assert other.identity.address in other.fails("package.malformed", "deploy", str(file), *there)
    other.fails("package.malformed", "deploy", "nowhere.json", *there)
    file.write_bytes(bytes(1_000_001))
    assert "larger" in publisher.fails("package.malformed", "deploy", str(file), *there)

"""What a router's operator, and an arbiter, see of an audit."""

from __future__ import annotations

import json

from click.testing import CliRunner

from cactus_mesh.cli import main
from cactus_mesh.core import exhibits
from cactus_mesh.core.audit import audit_of, finding_of
from cactus_mesh.core.exhibits import Evidence, Exhibit, Proof, evidence_hash
from cactus_mesh.dossier import Case, open_dossier
from cactus_mesh.ports import Replay
from tests.core.cases import chain_of, liable_receipt, sealed, work_of
from tests.core.test_exhibits import TEXTS, reread, statement
from tests.samples import CHAIN_ID, CONTRACT, NOW_MS, ORCHESTRATOR, ROUTER, identity

SETTINGS = {"CACTUS_MESH_LEDGER": "http://127.0.0.1:9", "CACTUS_MESH_CONTRACT": CONTRACT}
SETTINGS |= {"CACTUS_MESH_CHAIN_ID": str(CHAIN_ID)}
VERIFIERS = (identity("first verifier"), identity("second verifier"))


def evidence(gap=5.0):
    chain = chain_of()
    receipt = liable_receipt(chain, work_of())
    proofs = []
    for verifier in VERIFIERS:
        audit = sealed(audit_of(chain, receipt.body), ROUTER, verifier.public_key)
        replay = Replay((-0.5,) * 16, (gap,) * 16, " sand" * 16, "length", 6)
        finding = sealed(finding_of(audit.digest, replay, "fake/1"), verifier, ROUTER.public_key)
        proofs.append(Proof(audit.raw, finding.raw))
    shown = Exhibit(chain.request.sealed.raw, chain.assignment.raw, [], receipt.raw, proofs)
    return exhibits.encode(Evidence([shown]))


def run(home, *arguments):
    done = CliRunner().invoke(main, ["--home", str(home), "audits", *arguments], env=SETTINGS)
    assert done.exit_code == 0, done.output
    return done.output


def file(home):
    data, request = evidence(), chain_of().request
    case = Case(
        client=request.consent.client,
        task_id=request.consent.task_id,
        orchestrator=ORCHESTRATOR.public_key,
        result="fail",
        failed=("replay_tokens",),
        evidence=data,
        dispute="opened",
        at=NOW_MS // 1_000,
        until=NOW_MS // 1_000 + 86_400,
    )
    with open_dossier(home / "audits.sqlite") as dossier:
        dossier.file(case)
    return case


def test_a_home_without_audits_says_so(tmp_path):
    assert "no answer has failed" in run(tmp_path, "list")


def test_the_list_names_the_task_its_orchestrator_and_what_became_of_it(tmp_path):
    case = file(tmp_path)
    line = run(tmp_path, "list")
    assert all(word in line for word in (case.task_id.hex(), ORCHESTRATOR.peer_id, "replay_tokens", "opened"))
    (listed,) = json.loads(run(tmp_path, "list", "--json"))
    assert listed["evidence_hash"] == evidence_hash(case.evidence).hex()


def test_a_case_shows_what_each_verifier_found(tmp_path):
    case = file(tmp_path)
    shown = run(tmp_path, "show", case.task_id.hex())
    assert all(verifier.peer_id in shown for verifier in VERIFIERS)
    assert "16 of 16 tokens mismatch, by up to 5" in shown


def test_an_arbiter_comes_to_the_same_judgement_from_the_file_alone(tmp_path):
    case, out = file(tmp_path / "router"), tmp_path / "evidence.bin"
    run(tmp_path / "router", "show", case.task_id.hex(), "--out", str(out))
    found = json.loads(run(tmp_path / "arbiter", "check", str(out), "--json"))
    assert [each["result"] for each in found] == ["fail", "fail"]
    assert {each["orchestrator"] for each in found} == {ORCHESTRATOR.peer_id}


def test_of_texts_that_were_read_again_it_tells_how_many_were_off(tmp_path):
    said = statement(texts=TEXTS[:6])
    data = exhibits.encode(Evidence([exhibits.exhibit_of(said, [reread(said, (0.0, 1.0))])]))
    out = tmp_path / "evidence.bin"
    out.write_bytes(data)
    shown = run(tmp_path, "check", str(out))
    assert "6 of 6 texts mismatch, by up to 1.41\n" in shown
    (found,) = json.loads(run(tmp_path, "check", str(out), "--json"))
    assert (found["texts"], found["result"], found["failed"]) == (6, "fail", ["replay_texts"])


def test_evidence_that_was_tampered_with_is_refused(tmp_path):
    data = bytearray(evidence())
    data[len(data) // 2] ^= 1
    out = tmp_path / "evidence.bin"
    out.write_bytes(bytes(data))
    done = CliRunner().invoke(main, ["--home", str(tmp_path), "audits", "check", str(out)], env=SETTINGS)
    assert done.exit_code == 3
    assert isinstance(done.exception, SystemExit)

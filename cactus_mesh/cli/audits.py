"""``calibrate``: measure what honest replays look like here.  ``audits``: what a router's audits have found."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cactus_mesh.cli.accounts import task_id_of
from cactus_mesh.cli.base import command, json_option, load, main
from cactus_mesh.errors import StateMalformed
from cactus_mesh.terminal import print_json, say

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from cactus_mesh.config import Config, Home
    from cactus_mesh.core.exhibits import Examined
    from cactus_mesh.core.thresholds import Entry
    from cactus_mesh.dossier import Case
    from cactus_mesh.ports import Engine

FILE = click.Path(path_type=Path, dir_okay=False)
SHOWN = 50


@main.command()
@click.option("--model", "models", multiple=True, metavar="NAME|PATH", help="Default: the configured models.")
@click.option(
    "--answers", type=click.IntRange(min=3), default=300, show_default=True, help="For each model and engine."
)
@click.option("--seed", type=int, default=20_260, show_default=True, help="Of the prompts.")
@click.option("--any-model", is_flag=True, help="Also as thresholds for models that nobody has calibrated.")
@click.option("--out", type=FILE, help="Where to keep the thresholds. Default: this home's.")
@json_option
@click.pass_obj
@command
async def calibrate(
    home: Home, models: tuple[str, ...], answers: int, seed: int, any_model: bool, out: Path | None, as_json: bool
) -> None:
    """Measure how far honest replays are from what was claimed, and keep the thresholds that audits judge by.

    Answers are made alone, 8 and 32 at once, on the configured device and on the processor, and replayed on both with
    other threads and in other pieces; of models that read texts whole, alone and beside 3 and 23 others.  Run it once
    for each model that this router audits.

    \b
    Example: cactus-mesh calibrate --model selftest
    """
    from cactus_mesh.calibration import calibrate as measure
    from cactus_mesh.calibration import for_any_model, remember

    config, place = load(home, models=models), out or home.thresholds_file
    devices = (config.engine.device, "cpu")
    openers = [partial(_engine, config, device, number) for number, device in enumerate(devices)]
    entries = await measure(openers, answers, seed, tell=lambda text: say(text) if not as_json else None)
    if any_model:
        entries += for_any_model(entries)
    remember(entries, place)
    if as_json:
        print_json([_entry(entry) for entry in entries])
        return
    for entry in entries:
        say(f"{entry.name} {entry.dtype} on {entry.device}: {_thresholds(entry)}")
    say(f"kept in {place}")


def _thresholds(entry: Entry) -> str:
    found = entry.thresholds
    if entry.reads is not None:
        return (
            f"to {entry.reads}, a text that is off by more than {found.gap_noise:.2g} is a mismatch, "
            f"by more than {found.gap_fail:.2g} a failure"
        )
    return (
        f"a gap above {found.gap_noise:.2g} is a mismatch, a mean error above {found.logprob_pass:.2g} a doubt and "
        f"above {found.logprob_fail:.2g} a failure"
    )


def _engine(config: Config, device: str, number: int) -> AbstractAsyncContextManager[Engine]:
    """Each with other threads, and reading in other pieces."""
    from cactus_mesh.engine import EngineSettings, open_engine

    settings = EngineSettings(
        slots=32,
        threads=1 + number,
        device=device,
        dtype=config.engine.dtype,
        chunk_tokens=16 if number else 128,
        allow_download=config.engine.allow_download,
    )
    return open_engine(config.models, settings)


def _entry(entry: Entry) -> dict[str, object]:
    import msgspec

    found: dict[str, object] = msgspec.to_builtins(entry)
    return found


@main.group()
def audits() -> None:
    """What this router's audits have found, and the evidence of it."""


@audits.command("list")
@json_option
@click.pass_obj
@command
async def list_(home: Home, as_json: bool) -> None:
    """The newest answers that failed an audit, confirmed or not.

    \b
    Example: cactus-mesh audits list
    """
    cases = _cases(home, None)
    if as_json:
        print_json([_case(case) for case in cases])
        return
    for case in cases:
        say(_line(case))
    if not cases:
        say("no answer has failed an audit here")


@audits.command()
@click.argument("task_id")
@click.option("--out", type=FILE, help="Write the evidence to this file, for an arbiter.")
@json_option
@click.pass_obj
@command
async def show(home: Home, task_id: str, out: Path | None, as_json: bool) -> None:
    """One case: who found what, and the evidence whose hash the ledger has.

    \b
    Example: cactus-mesh audits show 3f…9c --out evidence.bin
    """
    from cactus_mesh.files import write_private

    cases = _cases(home, task_id_of(task_id))
    if not cases:
        raise StateMalformed(f"no audit of task {task_id} has failed here; see: cactus-mesh audits list")
    if out is not None:
        write_private(out, cases[0].evidence)
    if as_json:
        print_json({**_case(cases[0]), "found": _findings(home, cases[0].evidence)})
        return
    say(_line(cases[0]))
    _tell(home, cases[0].evidence)


@audits.command()
@click.argument("evidence", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@json_option
@click.pass_obj
@command
async def check(home: Home, evidence: Path, as_json: bool) -> None:
    """Come to the judgement again from a file of evidence: every signature, digest and number in it.

    \b
    Example: cactus-mesh audits check evidence.bin
    """
    data = _read(evidence)
    if as_json:
        print_json(_findings(home, data))
    else:
        _tell(home, data)


def _read(evidence: Path) -> bytes:
    return evidence.read_bytes()


def _cases(home: Home, task_id: bytes | None) -> list[Case]:
    from cactus_mesh.dossier import open_dossier

    if not home.audits_file.exists():
        return []
    with open_dossier(home.audits_file) as dossier:
        return dossier.cases(SHOWN) if task_id is None else dossier.of_task(task_id)


def _case(case: Case) -> dict[str, object]:
    from cactus_mesh.core.exhibits import evidence_hash
    from cactus_mesh.identity import peer_id

    return {
        "task_id": case.task_id.hex(),
        "client": case.client,
        "orchestrator": peer_id(case.orchestrator),
        "result": case.result,
        "failed": list(case.failed),
        "dispute": case.dispute,
        "evidence_hash": evidence_hash(case.evidence).hex(),
        "at": case.at,
    }


def _line(case: Case) -> str:
    known = _case(case)
    said = "confirmed by two verifiers" if case.result == "fail" else "not confirmed"
    return f"{known['task_id']} by {known['orchestrator']}: {', '.join(case.failed)}; {said}; dispute: {case.dispute}"


def _examined(home: Home, data: bytes) -> list[Examined]:
    from cactus_mesh.calibration import known_thresholds
    from cactus_mesh.core.exhibits import decode_evidence, examine
    from cactus_mesh.core.requests import Contract
    from cactus_mesh.identity import Address

    config = load(home)
    contract, table = Contract(config.chain_id, Address(config.contract)), known_thresholds(home.thresholds_file)
    return [examine(exhibit, contract, table) for exhibit in decode_evidence(data).exhibits]


def _findings(home: Home, data: bytes) -> list[dict[str, object]]:
    from cactus_mesh.identity import peer_id

    return [
        {
            "task_id": each.receipt.body.task_id.hex(),
            "orchestrator": peer_id(each.chain.liable),
            "verifier": peer_id(opinion.verifier),
            "result": opinion.judgement.result,
            "failed": list(opinion.judgement.failed),
            "texts" if opinion.comparison.texts else "tokens": opinion.comparison.tokens,
            "mismatches": opinion.comparison.mismatches,
            "largest_gap": min(opinion.comparison.largest_gap, 1e9),
            "logprob_error": min(opinion.comparison.logprob_error, 1e9),
        }
        for each in _examined(home, data)
        for opinion in each.opinions
    ]


def _tell(home: Home, data: bytes) -> None:
    for found in _findings(home, data):
        failed = found["failed"]
        assert isinstance(failed, list)
        say(f"task {found['task_id']} by {found['orchestrator']}")
        say(f"  verifier {found['verifier']}: {found['result']} {', '.join(failed)}")
        what = "texts" if "texts" in found else "tokens"
        rest = "" if what == "texts" else f"; error of log-probabilities {found['logprob_error']:.3g}"
        say(f"  {found['mismatches']} of {found[what]} {what} mismatch, by up to {found['largest_gap']:.3g}{rest}")

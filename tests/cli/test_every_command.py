"""What holds for every command: JSON, an example, help that fits, one meaning for each exit status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cactus_mesh.cli import main
from cactus_mesh.cli.contents import EXIT_STATUSES, HIDDEN, MODULE_OF, ORDER
from cactus_mesh.errors import LedgerError, MeshError, PeerError, TaskError, UnreachableError, UsageError

DOCS = Path(__file__).parents[2] / "docs" / "terminal.md"
COLUMNS = 80
SILENT = {"demo-client"}
"""Prints JSON only."""


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command by its words, those of groups included."""
    context, found = click.Context(group), []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        if not isinstance(command, click.Group) or command.invoke_without_command:
            found.append((*path, name))
    return found


def command_of(words: tuple[str, ...]) -> click.Command:
    command: click.Command = main
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    return command


EVERY = commands(main)


def test_there_are_commands_to_look_at():
    assert {("ask",), ("gateway", "keys", "add"), ("receipts", "verify"), ("gateway",)} <= set(EVERY)
    assert {words[0] for words in EVERY} == set(ORDER)


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_it_prints_json_has_an_example_and_its_help_fits_a_terminal(words):
    command = command_of(words)
    assert "--json" in {option for parameter in command.params for option in parameter.opts}
    assert re.search(rf"Example: .*\b{words[0]}\b", command.help)
    shown = CliRunner().invoke(main, [*words, "--help"], prog_name="cactus-mesh", env={"COLUMNS": str(COLUMNS)})
    assert shown.exit_code == 0
    whole = re.compile("Example|Usage|cactus-mesh|://")  # is to be copied in one piece
    assert [line for line in shown.output.splitlines() if len(line) > COLUMNS and not whole.search(line)] == []


@pytest.mark.parametrize("name", [*ORDER, *HIDDEN])
def test_the_table_of_commands_says_where_each_is(name):
    command = command_of((name,))
    assert command.name == name
    assert command.hidden == (name in HIDDEN)
    assert (Path(main.main.__code__.co_filename).parent / f"{MODULE_OF[name]}.py").exists()


def test_help_names_every_command_and_every_exit_status():
    shown = CliRunner().invoke(main, ["--help"], env={"COLUMNS": str(COLUMNS)}).output
    assert [name for name in ORDER if not re.search(rf"^  {name}  ", shown, re.MULTILINE)] == []
    for status, words in EXIT_STATUSES.items():
        assert re.search(rf"^  {status} +{re.escape(words.replace('`', '')[:30])}", shown, re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= COLUMNS


def test_exit_statuses_are_those_of_the_errors_and_of_the_documentation():
    branches = (MeshError, UsageError, PeerError, LedgerError, UnreachableError, TaskError)
    assert [branch.exit_status for branch in branches] == [1, 2, 3, 4, 5, 6]
    table = dict(re.findall(r"^\| (\d+) \| (.+) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert table == {str(status): words for status, words in EXIT_STATUSES.items()}


def test_a_word_that_is_no_command_names_the_nearest():
    shown = CliRunner().invoke(main, ["blance"])
    assert shown.exit_code == 2
    assert "Did you mean balance?" in shown.stderr


@pytest.mark.parametrize(
    "words", [["blance"], ["ask"], ["tasks", "--limit", "0"], ["tasks", "--no-such"], ["gateway", "keys", "mak"]]
)
def test_a_mistake_in_the_command_is_json_where_json_is_wanted(words):
    shown = CliRunner().invoke(main, [*words, "--json"])
    assert shown.exit_code == 2
    assert json.loads(shown.stdout)["error"]["code"] == "usage"
    assert CliRunner().invoke(main, words).stdout == ""


def test_help_loads_no_command_and_nothing_that_is_slow():
    code = (
        "import sys\nfrom cactus_mesh.cli import main\ntry:\n main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'trio', 'msgspec', 'libp2p', 'torch', 'rich'}))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8")
    assert shown.stdout.splitlines()[-1] == "[]"


# --- completion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shell", "hook"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete --no-")])
def test_each_shell_gets_its_script(shell, hook):
    assert hook in CliRunner().invoke(main, ["completion", shell]).stdout


def completed(words: list[str], **variables: str) -> list[str]:
    environment = {"_CACTUS_MESH_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words)}
    environment |= {"COMP_CWORD": str(len(words) - 1), **variables}
    shown = CliRunner().invoke(main, [], prog_name="cactus-mesh", env=environment)
    return [line.partition(",")[2] for line in shown.output.splitlines() if line]


def test_commands_and_options_are_completed():
    assert completed(["cactus-mesh", "ear"]) == ["earnings"]
    assert completed(["cactus-mesh", "tasks", "--sta"]) == ["--state"]
    assert completed(["cactus-mesh", "tasks", "--state", "f"]) == ["failed"]
    assert completed(["cactus-mesh", "gateway", "keys", "a"]) == ["add"]


def test_models_peers_and_tasks_of_this_home_are_completed(tmp_path):
    import trio

    from tests.test_records import keep, record

    trio.run(lambda: keep(tmp_path / "records.sqlite", record(0xAB << 120, model="my-model")))
    (tmp_path / "peers.json").write_text('{"peers": [{"peer": "12D3KooWabc"}]}')
    home = {"CACTUS_MESH_HOME": str(tmp_path)}
    assert completed(["cactus-mesh", "tasks", "ab"], **home) == ["ab" + "00" * 15]
    assert completed(["cactus-mesh", "ask", "--model", "my"], **home) == ["my-model"]
    assert completed(["cactus-mesh", "ping", "12D"], **home) == ["12D3KooWabc"]


def test_files_that_hold_nonsense_complete_to_nothing(tmp_path):
    for name in ("records.sqlite", "peers.json", "models.json"):
        (tmp_path / name).write_bytes(b"\xff nonsense")
    home = {"CACTUS_MESH_HOME": str(tmp_path)}
    assert completed(["cactus-mesh", "tasks", ""], **home) == []
    assert completed(["cactus-mesh", "ping", ""], **home) == []

"""How the command line asks a running node, and what it is told while the node cannot answer."""

from __future__ import annotations

import json
import stat

import pytest
import trio

from cactus_mesh import control
from cactus_mesh.control import WHO, ask_home, ask_node, open_control
from cactus_mesh.errors import NodeNotRunning, NodeRunning, PeerUnreachable
from cactus_mesh.home import Home


async def echo(about):
    await trio.lowlevel.checkpoint()
    return {"about": about}


async def unreachable(about):
    raise PeerUnreachable(f"cannot reach {about}, tried everything")


async def test_a_question_may_be_about_something_and_take_its_time(tmp_path):
    async with open_control(tmp_path / "control", {"echo": echo, "now": lambda _: {"x": 1}}):
        assert await ask_node(tmp_path / "control", "echo", "12D3KooW…") == {"about": "12D3KooW…"}
        assert await ask_node(tmp_path / "control", "now") == {"x": 1}
        assert stat.S_IMODE((tmp_path / "control").stat().st_mode) & 0o077 == 0
    assert not (tmp_path / "control").exists()


async def test_an_error_in_answering_reaches_who_asked_as_itself(tmp_path):
    async with open_control(tmp_path / "control", {"ping": unreachable}):
        with pytest.raises(PeerUnreachable, match="cannot reach X, tried everything"):
            await ask_node(tmp_path / "control", "ping", "X")


async def test_a_node_that_is_starting_says_so_and_keeps_its_home(tmp_path):
    async with open_control(tmp_path / "control", {}):
        with pytest.raises(NodeNotRunning, match="still starting"):
            await ask_node(tmp_path / "control", "status")
        with pytest.raises(NodeRunning, match="--home"):
            async with open_control(tmp_path / "control", {}):
                pass
        assert "pid" in await ask_node(tmp_path / "control", WHO)


async def test_a_home_is_answered_for_by_its_node_and_else_by_its_gateway(tmp_path):
    home = Home(tmp_path, tmp_path)
    with pytest.raises(NodeNotRunning, match="cactus-mesh run"):
        await ask_home(home, "which")
    async with open_control(home.gateway_control_file, {"which": lambda _: {"is": "gateway"}}):
        assert await ask_home(home, "which") == {"is": "gateway"}
        async with open_control(home.control_file, {"which": lambda _: {"is": "node"}}):
            assert await ask_home(home, "which") == {"is": "node"}


async def test_without_the_secret_there_is_no_answer(tmp_path):
    async with open_control(tmp_path / "control", {"echo": echo}):
        door = json.loads((tmp_path / "control").read_text())
        (tmp_path / "other").write_text(json.dumps(door | {"secret": "guessed"}))
        with pytest.raises(NodeNotRunning):
            await ask_node(tmp_path / "other", "echo")


async def test_a_node_that_does_not_answer_is_named(tmp_path, autojump_clock):
    async def for_ever(_):
        await trio.sleep_forever()

    async with open_control(tmp_path / "control", {"slow": for_ever}):
        with pytest.raises(NodeNotRunning, match=r"does not answer within 1 s"):
            await ask_node(tmp_path / "control", "slow", seconds=1)
    assert control.LONG_ANSWER_SECONDS > control.ANSWER_SECONDS

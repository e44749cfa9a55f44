"""``completion``: what a shell must read to complete this program's commands, options, models, peers and tasks."""

from __future__ import annotations

import click

from cactus_mesh.cli.base import json_option, main
from cactus_mesh.terminal import print_json, say

PROGRAM = "cactus-mesh"
VARIABLE = "_CACTUS_MESH_COMPLETE"
INSTALL = {
    "bash": 'eval "$(cactus-mesh completion bash)"     # in ~/.bashrc',
    "zsh": 'eval "$(cactus-mesh completion zsh)"      # in ~/.zshrc, after compinit',
    "fish": "cactus-mesh completion fish > ~/.config/fish/completions/cactus-mesh.fish",
}


@main.command()
@click.argument("shell", type=click.Choice([*INSTALL]))
@json_option
def completion(shell: str, as_json: bool) -> None:
    """Print what SHELL must read to complete commands, options, models, peers and tasks.

    Nothing is asked of the network to complete a word: names come from this home's files.

    \b
    Example: cactus-mesh completion bash >> ~/.bashrc
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells that may be chosen"
    script = kind(main, {}, PROGRAM, VARIABLE).source()
    if as_json:
        print_json({"shell": shell, "script": script, "install": INSTALL[shell]})
        return
    click.echo(script)
    say(f"to install: {INSTALL[shell]}")

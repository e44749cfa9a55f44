"""Where a home keeps its files, and which home is meant; imports nothing, so that a shell's completion can ask too."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

ENVIRONMENT_PREFIX: Final = "CACTUS_MESH_"
_APPLICATION: Final = "cactus-mesh"


@dataclass(frozen=True, slots=True)
class Home:
    """Where a node keeps its files: *config* is the user's, *state* is ours."""

    config: Path
    state: Path

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    @property
    def key_file(self) -> Path:
        return self.state / "key"

    @property
    def peers_file(self) -> Path:
        return self.state / "peers.json"

    @property
    def control_file(self) -> Path:
        return self.state / "control.json"

    @property
    def gateway_control_file(self) -> Path:
        """As `control_file`, of a gateway without a node."""
        return self.state / "gateway-control.json"

    @property
    def models_file(self) -> Path:
        return self.state / "models.json"

    @property
    def journal_file(self) -> Path:
        return self.state / "journal.sqlite"

    @property
    def audits_file(self) -> Path:
        return self.state / "audits.sqlite"

    @property
    def thresholds_file(self) -> Path:
        """What ``cactus-mesh calibrate`` has measured here."""
        return self.config / "thresholds.json"

    @property
    def book_file(self) -> Path:
        return self.state / "book.sqlite"

    @property
    def purse_file(self) -> Path:
        return self.state / "purse.sqlite"

    @property
    def records_file(self) -> Path:
        return self.state / "records.sqlite"

    @property
    def chat_history_file(self) -> Path:
        return self.state / "chat-history"

    @property
    def gateway_keys_file(self) -> Path:
        return self.state / "gateway-keys.json"

    @property
    def devnet(self) -> Path:
        return self.state / "devnet"


def find_home(given: str | os.PathLike[str] | None, environment: Mapping[str, str] = os.environ) -> Home:
    """*given* (``--home``), else ``CACTUS_MESH_HOME``, holds everything; else the system's folders (XDG on Linux)."""
    if given is None and environment.get(ENVIRONMENT_PREFIX + "HOME"):
        given = environment[ENVIRONMENT_PREFIX + "HOME"]
    if given is not None:
        place = Path(given).expanduser()
        return Home(place, place)
    import platformdirs

    return Home(
        platformdirs.user_config_path(_APPLICATION, appauthor=False),
        platformdirs.user_data_path(_APPLICATION, appauthor=False),
    )

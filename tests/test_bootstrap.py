"""The files for operators of public nodes hold together; ``make bootstrap-check`` also runs the image's steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootstrap import check, image
from cactus_mesh.errors import ConfigMalformed

FILES = (
    *("compose.yaml", "compose.operator.yaml", "prometheus.yaml", "grafana/cactus-mesh.json"),
    *("Containerfile", "environment.example", "systemd/cactus-mesh.service"),
)
FOLDER = Path(__file__).parents[1] / "bootstrap"


@pytest.mark.parametrize("name", check.QUICK)
def test_each_file_is_as_it_must_be(name):
    try:
        assert check.QUICK[name]()
    except check.Wrong as wrong:
        if not str(wrong).startswith("SKIP "):
            raise
        pytest.skip(str(wrong))


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """Copies of the files, of which one can be spoilt."""
    folder = tmp_path / "bootstrap"

    def change(name, old, new):
        for file in FILES:
            copy = folder / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text((FOLDER / file).read_text(encoding="utf-8"), encoding="utf-8")
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new), encoding="utf-8")
        for module in (check, image):
            monkeypatch.setattr(module, "HERE", folder)
        monkeypatch.setattr(check, "UNIT", folder / "systemd" / "cactus-mesh.service")

    return change


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "says"),
    [
        ("compose", "compose.yaml", "    init: true", "    init: true\n    init: true", "a key is there twice"),
        ("compose", "compose.yaml", "    init: true", "    inti: true", "unknown keys"),
        ("compose", "compose.yaml", "network_mode: host", "network_mode: bridge", "own address"),
        ("compose", "compose.yaml", "      - ALL", "      - CHOWN", "without privileges"),
        ("compose, operator", "compose.operator.yaml", "- gateway:/data", "- router:/data", "share a key"),
        ("compose, operator", "prometheus.yaml", "127.0.0.1:4192", "127.0.0.1:4199", "Prometheus asks"),
        ("board", "grafana/cactus-mesh.json", '"unit": "percentunit"', '"unit": ""', "has no unit"),
        ("Containerfile", "Containerfile", "AS run", "AS build", "a name of its own"),
        ("unit", "systemd/cactus-mesh.service", "DynamicUser=yes", "User=root", "DynamicUser"),
        ("unit", "systemd/cactus-mesh.service", "Restart=on-failure", "Restart on-failure", "not a directive"),
        ("Containerfile", "Containerfile", "COPY cactus_mesh ", "COPY cactus_mush ", "is not there"),
        ("Containerfile", "Containerfile", "USER cactus-mesh", "USER root", "must not run as root"),
        ("environment", "environment.example", "bootstrap,relay", "router", "bootstrap peer and relay"),
    ],
)
def test_a_mistake_is_found(changed, name, file, old, new, says):
    changed(file, old, new)
    with pytest.raises(check.Wrong, match=says):
        check.QUICK[name]()


def test_a_setting_that_the_program_does_not_have_is_found(changed):
    changed("environment.example", "CACTUS_MESH_ROLES", "CACTUS_MESH_ROLLS")
    with pytest.raises(ConfigMalformed, match="ROLLS"):
        check.QUICK["environment"]()

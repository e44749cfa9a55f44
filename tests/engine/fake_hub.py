"""A hub on this machine that gives files as the real one does, and misbehaves as it is told."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from cactus_mesh.engine.models import WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "c0ffee" * 6 + "abcd"
NAME = "some/model"


@dataclass
class FakeHub:
    """*files* are those of its one repository; *served* counts the bytes of bodies, by file."""

    url: str
    files: dict[str, bytes]
    served: dict[str, int] = field(default_factory=dict)
    ranges: list[str] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    """Of the weights, how many bytes each answer gives before the connection is cut, one answer after another."""
    ignores_ranges: bool = False
    sent: dict[str, bytes] = field(default_factory=dict)
    """What is sent in place of a file."""
    declared: dict[str, int] = field(default_factory=dict)
    status: int = 200
    code: str = ""
    hold: threading.Event | None = None
    """Waited for after half of the weights."""
    half: threading.Event = field(default_factory=threading.Event)

    def description(self) -> dict[str, Any]:
        return {"id": NAME, "sha": COMMIT, "siblings": [self._sibling(name) for name in self.files]}

    def _sibling(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        git = hashlib.sha1(b"blob %d\x00" % len(data) + data, usedforsecurity=False).hexdigest()
        size = self.declared.get(name, len(data))
        found: dict[str, Any] = {"rfilename": name, "size": size, "blobId": git}
        if name.endswith(".safetensors"):
            found["lfs"] = {"size": size, "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
        return found


@contextmanager
def open_hub(folder: Path) -> Iterator[FakeHub]:
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = server.hub = FakeHub(f"http://127.0.0.1:{server.server_port}", files)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        if hub.hold is not None:
            hub.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub: FakeHub = self.server.hub  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        if hub.status != 200:
            self._give(hub.status, b"{}", {"X-Error-Code": hub.code} if hub.code else {})
        elif path == f"/api/models/{NAME}":
            self._give(200, json.dumps(hub.description()).encode(), {"Content-Type": "application/json"})
        elif path.startswith(f"/{NAME}/resolve/{COMMIT}/"):
            self._file(hub, path.rpartition(f"{COMMIT}/")[2])
        else:
            self._give(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _file(self, hub: FakeHub, name: str) -> None:
        whole = hub.sent.get(name, hub.files[name])
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin, status, headers = 0, 200, {}
        if asked and not hub.ignores_ranges:
            begin, status = int(asked[1]), 206
            hub.ranges.append(f"{name} {begin}")
            headers["Content-Range"] = f"bytes {begin}-{len(whole) - 1}/{len(whole)}"
        body = whole[begin:]
        cut = hub.cut_after.pop(0) if name == WEIGHTS and hub.cut_after else len(body)
        self._head(status, len(body), headers)
        if name == WEIGHTS and hub.hold is not None:
            self.wfile.write(body[: len(body) // 2])
            hub.half.set()
            hub.hold.wait()
            self.close_connection = True
            return
        self.wfile.write(body[:cut])
        hub.served[name] = hub.served.get(name, 0) + len(body[:cut])
        self.close_connection = cut < len(body)

    def _give(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, len(body), headers)
        self.wfile.write(body)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(length)} | headers).items():
            self.send_header(name, value)
        self.end_headers()

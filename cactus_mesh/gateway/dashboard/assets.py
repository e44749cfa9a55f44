"""The page's files, as they lie in the package: read once, told apart by their content, no dearer than a hash.

They hold nothing that anybody may not see, so they are served without a key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from cactus_mesh.gateway.http import header, reply

if TYPE_CHECKING:
    from starlette.types import Scope, Send

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS: Final = {
    "cache-control": "no-cache",  # asked again each time, and told "the same": a new version shows at once
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}
_KINDS: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    body: bytes
    kind: str
    tag: str

    async def serve(self, scope: Scope, send: Send) -> None:
        headers = {**_HEADERS, "etag": self.tag}
        if self.tag in (header(scope, b"if-none-match") or ""):
            await reply(send, 304, b"", headers, self.kind)
        else:
            await reply(send, 200, self.body, headers, self.kind)


def read_assets() -> dict[str, Asset]:
    """By file name."""
    page = files(__package__) / "page"
    return {each.name: _asset(each.name, each.read_bytes()) for each in page.iterdir() if each.is_file()}


def _asset(name: str, body: bytes) -> Asset:
    return Asset(body, _KINDS[name.rpartition(".")[2]], f'"{hashlib.sha256(body).hexdigest()[:24]}"')

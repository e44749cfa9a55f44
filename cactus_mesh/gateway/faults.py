"""How errors look over HTTP: OpenAI's shape around our stable code, a status, and when to try again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cactus_mesh.errors import (
    ApiKeyRejected,
    BadParameters,
    DeadlinePassed,
    DuplicateTask,
    GatewayError,
    HostRefused,
    LedgerError,
    MeshError,
    NoFunds,
    OriginRefused,
    PathUnknown,
    PeerError,
    PriceOverBudget,
    PriceTooLow,
    PromptTooLong,
    RequestTooLarge,
    RequestTooSlow,
    TaskError,
    TooManyRequests,
    UnknownModel,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

RETRY_SECONDS: Final = 2
"""What to wait when the mesh is full or something in it is down; its own routers look around about as often."""
_INTERNAL: Final = "the gateway met an internal error, which its log explains"

_STATUS_OF: Final[tuple[tuple[type[MeshError], int], ...]] = (
    (ApiKeyRejected, 401),
    (HostRefused, 403),
    (OriginRefused, 403),
    (PathUnknown, 404),
    (UnknownModel, 404),
    (RequestTooSlow, 408),
    (DuplicateTask, 409),
    (RequestTooLarge, 413),
    (TooManyRequests, 429),
    (NoFunds, 402),
    (PriceOverBudget, 402),
    (PriceTooLow, 402),
    (GatewayError, 400),
    (BadParameters, 400),
    (PromptTooLong, 400),
    (DeadlinePassed, 504),
    (TaskError, 503),
    (UnreachableError, 503),
    (LedgerError, 503),
    (PeerError, 502),
)
"""The first that fits; anything else is this side's own fault, 500."""
_TYPE_OF: Final[Mapping[int, str]] = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Fault(Exception):
    """*error*, about the parameter *param* where there is one, to be told with *retry_after* seconds."""

    def __init__(self, error: MeshError, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.param = param
        self._retry_after = retry_after

    @property
    def status(self) -> int:
        return next((status for kind, status in _STATUS_OF if isinstance(self.error, kind)), 500)

    @property
    def retry_after(self) -> int | None:
        """In seconds; None where trying again does not help."""
        if self._retry_after is not None:
            return self._retry_after
        return RETRY_SECONDS if self.error.retry or self.status in (429, 503) else None

    def headers(self) -> dict[str, str]:
        """``x-should-retry`` is what the official clients go by."""
        after = self.retry_after
        if after is None:
            return {"x-should-retry": "false"}
        return {"x-should-retry": "true", "retry-after": str(after)}

    def body(self) -> dict[str, object]:
        status = self.status
        kind = _TYPE_OF.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return {
            "error": {"message": str(self.error), "type": kind, "param": self.param, "code": self.error.code},
        }


def fault_of(error: Exception) -> Fault:
    """What to tell of *error*; of one that is not ours only that it happened."""
    if isinstance(error, Fault):
        return error
    return Fault(error if isinstance(error, MeshError) else MeshError(_INTERNAL))

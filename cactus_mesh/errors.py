"""Everything that can go wrong, one class and one stable code per cause.

A code never changes its meaning; docs/errors.md lists them.  Each message tells the user what to do.
Errors cross the wire as ``(code, message, retry)`` and come back as the same class.

MeshError
├── ProcessFailed         a process that was started for the demo did not do its part   exit status 1
├── UsageError            the caller, its configuration or its files are at fault      exit status 2
│   ├── ConfigMalformed, ConfigMissing, KeyFileExposed, KeyFileMalformed, KeyFileMissing, KeyFileExists,
│   ├── BackupMalformed, BackupLocked, HomeNotEmpty,
│   ├── KeyFileUnwritable, StateMalformed, StateInUse, NodeNotRunning, NodeRunning, PortInUse, AddressMalformed,
│   ├── AmountMalformed, TaskIdMalformed, TaskNotKept, OutputExists, NotTheOwner, NoOperatorConsent, PackageMalformed,
│   ├── PeerListRejected, PeerListExpired, ServiceUnavailable, GatewayKeyUnknown, GatewayKeysMissing,
│   ├── GatewayError      an HTTP request to the gateway: ApiKeyRejected, HostRefused, OriginRefused, PathUnknown,
│   │                     RequestMalformed, RequestTooLarge, RequestTooSlow, TooManyRequests, Unsupported
│   └── PriceOverBudget, MissingExtra, ModelMissing, ModelRefused, ModelMalformed, ModelUnsupported, ModelTooLarge
├── PeerError             the peer at the other end is at fault                         exit status 3
│   ├── MessageError      its bytes: MessageTooLarge, MessageMalformed, MessageUnknownVersion, MessageUnknownType,
│   │                     MessageNotCanonical, MessageBadSignature, MessageExpired, MessageFromFuture,
│   │                     MessageReplayed, MessageMisdirected, MessageWrongSender, MessageOverload
│   ├── WrongNetwork, ProtocolViolation, PeerFailed, UnknownMethod, StreamOverflow
│   └── ReceiptRejected, DelegationRejected, ConsentRejected, RouterNotAuthorised
├── LedgerError           the ledger is at fault or says no                             exit status 4
│   ├── LedgerDown, LedgerWrongChain, LedgerRejected, LedgerAborted
│   └── NoFunds, NotStaked
├── UnreachableError      nobody to talk to                                             exit status 5
│   ├── NoBootstrap, NoRouter, NoOrchestrator, PeerUnreachable, PeerLost, CallTimeout, NetworkFailed
└── TaskError             this task cannot be done, or not as asked                     exit status 6
    ├── UnknownModel, PromptTooLong, BadParameters, DeadlinePassed, Cancelled, Busy, DuplicateTask
    └── OrchestratorLost, CannotContinue, EngineFailed, PriceTooLow, Draining
"""

from __future__ import annotations

from typing import ClassVar


class MeshError(Exception):
    """Root of all errors of this package.

    ``code`` is stable; ``retry`` says whether the same request may succeed later or with another peer;
    ``exit_status`` is what the command line ends with.
    """

    code: ClassVar[str] = "mesh"
    retry: ClassVar[bool] = False
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class UsageError(MeshError):
    code = "usage"
    exit_status = 2


class ConfigMalformed(UsageError):
    code = "config.malformed"


class ConfigMissing(UsageError):
    code = "config.missing"


class KeyFileExposed(UsageError):
    code = "key.exposed"


class KeyFileMalformed(UsageError):
    code = "key.malformed"


class KeyFileMissing(UsageError):
    code = "key.missing"


class KeyFileExists(UsageError):
    code = "key.exists"


class KeyFileUnwritable(UsageError):
    code = "key.unwritable"


class StateMalformed(UsageError):
    code = "state.malformed"


class BackupMalformed(UsageError):
    """The file is no whole backup of this program, or one of a newer version."""

    code = "backup.malformed"


class BackupLocked(UsageError):
    """The backup is encrypted, and the passphrase is missing or wrong."""

    code = "backup.locked"


class HomeNotEmpty(UsageError):
    """A restore would replace a key or state."""

    code = "home.not_empty"


class StateInUse(UsageError):
    """Another process has this home's files open."""

    code = "state.in_use"


class ProcessFailed(MeshError):
    """A process that this one started, for the demo say, did not do its part."""

    code = "process.failed"


class NodeNotRunning(UsageError):
    code = "node.not_running"


class NodeRunning(UsageError):
    """Another node uses the same home, and so the same key."""

    code = "node.running"


class PortInUse(UsageError):
    code = "listen.port_in_use"


class AddressMalformed(UsageError):
    code = "address.malformed"


class PeerListRejected(UsageError):
    """A network's list of known peers is not what its publisher signed."""

    code = "peers.list_rejected"


class PeerListExpired(UsageError):
    code = "peers.list_expired"


class ServiceUnavailable(UsageError):
    """This system has nothing that could run a node in the background for this user."""

    code = "service.unavailable"


class AmountMalformed(UsageError):
    code = "amount.malformed"


class TaskIdMalformed(UsageError):
    code = "task_id.malformed"


class TaskNotKept(UsageError):
    """This home's records do not have the task, or not its receipt."""

    code = "task.not_kept"


class OutputExists(UsageError):
    """A file is in the place where one would be written."""

    code = "output.exists"


class NotTheOwner(UsageError):
    """The signing key does not own the stake."""

    code = "stake.not_owner"


class NoOperatorConsent(UsageError):
    """The operator key has not signed that it works for this owner."""

    code = "stake.no_consent"


class PackageMalformed(UsageError):
    """What should be a compiled Move package is none, or not this contract's, or made for another account."""

    code = "package.malformed"


class GatewayKeysMissing(UsageError):
    """The gateway is to listen where others can reach it, and nobody has a key."""

    code = "gateway.keys_missing"


class GatewayKeyUnknown(UsageError):
    """There is no API key of that name, or there is one already."""

    code = "gateway.key_unknown"


class GatewayError(UsageError):
    """An HTTP request that the gateway refuses before anything is asked of the mesh."""

    code = "gateway"


class ApiKeyRejected(GatewayError):
    code = "gateway.key_rejected"


class HostRefused(GatewayError):
    """The Host header names another machine: what DNS rebinding looks like."""

    code = "gateway.host_refused"


class OriginRefused(GatewayError):
    """A web page of somebody else's asks."""

    code = "gateway.origin_refused"


class PathUnknown(GatewayError):
    code = "gateway.path_unknown"


class RequestMalformed(GatewayError):
    code = "gateway.request_malformed"


class RequestTooLarge(GatewayError):
    code = "gateway.request_too_large"


class RequestTooSlow(GatewayError):
    code = "gateway.request_too_slow"


class TooManyRequests(GatewayError):
    code = "gateway.too_many_requests"
    retry = True


class Unsupported(GatewayError):
    """A parameter that the mesh cannot honour."""

    code = "gateway.unsupported"


class PriceOverBudget(UsageError):
    code = "budget.exceeded"


class MissingExtra(UsageError):
    code = "install.missing_extra"


class ModelMissing(UsageError):
    """The model's files are not on this machine."""

    code = "model.missing"


class ModelRefused(UsageError):
    """The model's files could run code."""

    code = "model.refused"


class ModelMalformed(UsageError):
    """The model's files are damaged or incomplete."""

    code = "model.malformed"


class ModelUnsupported(UsageError):
    """The model is of a kind that the engine does not run."""

    code = "model.unsupported"


class ModelTooLarge(UsageError):
    """The model does not fit into memory."""

    code = "model.too_large"


class PeerError(MeshError):
    code = "peer"
    exit_status = 3


class MessageError(PeerError):
    """Bytes from a peer that are not a valid signed message."""

    code = "message"


class MessageTooLarge(MessageError):
    code = "message.too_large"


class MessageMalformed(MessageError):
    code = "message.malformed"


class MessageUnknownVersion(MessageError):
    code = "message.unknown_version"


class MessageUnknownType(MessageError):
    code = "message.unknown_type"


class MessageNotCanonical(MessageError):
    code = "message.not_canonical"


class MessageBadSignature(MessageError):
    code = "message.bad_signature"


class MessageExpired(MessageError):
    code = "message.expired"


class MessageFromFuture(MessageError):
    code = "message.from_future"


class MessageReplayed(MessageError):
    code = "message.replayed"


class MessageMisdirected(MessageError):
    code = "message.misdirected"


class MessageWrongSender(MessageError):
    code = "message.wrong_sender"


class MessageOverload(MessageError):
    code = "message.overload"
    retry = True


class WrongNetwork(PeerError):
    code = "peer.wrong_network"


class ProtocolViolation(PeerError):
    code = "peer.protocol_violation"


class PeerFailed(PeerError):
    """The peer met an internal error; its details stay in its own log."""

    code = "peer.failed"
    retry = True


class UnknownMethod(PeerError):
    code = "peer.unknown_method"


class StreamOverflow(PeerError):
    code = "peer.stream_overflow"


class ReceiptRejected(PeerError):
    code = "receipt.rejected"
    retry = True


class DelegationRejected(PeerError):
    code = "delegation.rejected"


class ConsentRejected(PeerError):
    code = "consent.rejected"


class RouterNotAuthorised(PeerError):
    code = "router.not_authorised"


class LedgerError(MeshError):
    code = "ledger"
    exit_status = 4


class LedgerDown(LedgerError):
    code = "ledger.down"
    retry = True


class LedgerWrongChain(LedgerError):
    code = "ledger.wrong_chain"


class LedgerRejected(LedgerError):
    """The ledger refused the transaction before running it (signature, sequence number, fee, expiry)."""

    code = "ledger.rejected"


class LedgerAborted(LedgerError):
    """The contract ran and said no; ``abort_code`` is its documented error code."""

    code = "ledger.aborted"

    def __init__(self, message: str, abort_code: int | None = None) -> None:
        super().__init__(message)
        self.abort_code = abort_code


class NoFunds(LedgerError):
    code = "ledger.no_funds"


class NotStaked(LedgerError):
    code = "ledger.not_staked"


class UnreachableError(MeshError):
    code = "unreachable"
    retry = True
    exit_status = 5


class NoBootstrap(UnreachableError):
    code = "unreachable.no_bootstrap"
    retry = False


class NoRouter(UnreachableError):
    code = "unreachable.no_router"


class NoOrchestrator(UnreachableError):
    code = "unreachable.no_orchestrator"


class PeerUnreachable(UnreachableError):
    code = "unreachable.peer"


class PeerLost(UnreachableError):
    """The connection ended while a call was under way."""

    code = "unreachable.peer_lost"


class CallTimeout(UnreachableError):
    code = "unreachable.timeout"


class NetworkFailed(UnreachableError):
    """The peer-to-peer host of this node crashed again and again."""

    code = "unreachable.network_failed"
    retry = False


class TaskError(MeshError):
    code = "task"
    exit_status = 6


class UnknownModel(TaskError):
    code = "task.unknown_model"


class PromptTooLong(TaskError):
    code = "task.prompt_too_long"


class BadParameters(TaskError):
    code = "task.bad_parameters"


class DeadlinePassed(TaskError):
    code = "task.deadline_passed"


class Cancelled(TaskError):
    code = "task.cancelled"


class Busy(TaskError):
    code = "task.busy"
    retry = True


class Draining(TaskError):
    """The peer is shutting down and takes no new work."""

    code = "task.draining"
    retry = True


class DuplicateTask(TaskError):
    code = "task.duplicate"


class OrchestratorLost(TaskError):
    code = "task.orchestrator_lost"
    retry = True


class CannotContinue(TaskError):
    code = "task.cannot_continue"
    retry = True


class EngineFailed(TaskError):
    code = "task.engine_failed"
    retry = True


class PriceTooLow(TaskError):
    code = "task.price_too_low"


def _by_code(root: type[MeshError]) -> dict[str, type[MeshError]]:
    found: dict[str, type[MeshError]] = {root.code: root}
    for child in root.__subclasses__():
        found |= _by_code(child)
    return found


BY_CODE = _by_code(MeshError)


def from_wire(code: str, message: str, retry: bool = False) -> MeshError:
    """Rebuild the error a peer sent.  An unknown code (a newer peer) becomes a plain peer error that keeps *retry*."""
    kind = BY_CODE.get(code)
    if kind is None:
        hint = f"{message} (error code {code!r} of a newer version; update cactus-mesh to understand it)"
        return PeerFailed(hint) if retry else PeerError(hint)
    return kind(message)


def to_wire(error: Exception) -> MeshError:
    """What a peer may be told of *error*: a `MeshError` as it is, of anything else only that it happened.

    A `UsageError` is this side's own affair, and its message may name files.
    """
    inner: BaseException = error
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    if isinstance(inner, MeshError) and not isinstance(inner, UsageError):
        return inner
    return PeerFailed("the peer met an internal error, which its own log explains; try again or ask another peer")

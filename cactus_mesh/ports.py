"""What the node's shells need of the world: a network, an engine, a ledger.  Adapters and test fakes implement these.

Everything here is typed in the project's own words; no port lets a library's types or exceptions through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    import trio

    from cactus_mesh.core.pricing import RewardParams, Split
    from cactus_mesh.core.settlement import Settlement, SettlementClaim, TaskConsent
    from cactus_mesh.identity import Address, Identity, PeerId, PublicKey
    from cactus_mesh.messages import Ending, FinishReason, Likelihood, ModelShape, Role, Sampling, Work, WorkKind


# --- network -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConnectedPeer:
    """A peer that has passed the hello.  *rtt_ms* is None until the first ping came back."""

    peer: PeerId
    public_key: PublicKey
    roles: tuple[Role, ...]
    agent: str
    address: str
    relayed: bool
    rtt_ms: float | None
    since: float
    """When the connection was made, in Unix seconds."""
    relay: PeerId | None = None
    """Through whom, when *relayed*."""
    why_relayed: str = ""
    """Why there is no direct connection, or what is being done about it; empty for a direct one."""


class Call(Protocol):
    """One incoming call, given to a `Handler`."""

    peer: PeerId
    public_key: PublicKey
    payload: bytes

    async def send(self, item: bytes) -> None:
        """Send one item of the reply.  Waits while the caller has granted no credit; cancelled when the caller is gone.

        Never cut short on the wire: a cancelled send either left whole or not at all.
        """
        ...


class Handler(Protocol):
    async def __call__(self, call: Call) -> None:
        """Answer *call* with any number of items.  Returning ends the reply; a `MeshError` travels to the caller;
        any other exception is logged here and reaches the caller as `PeerFailed`."""
        ...


class Reply(Protocol):
    """The items that a peer sends back, in order.  Iteration raises the peer's `MeshError`, or `PeerLost`."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...


GossipVerdict = Literal["accept", "ignore", "reject"]


@dataclass(frozen=True, slots=True)
class Gossip:
    topic: str
    data: bytes
    relayed_by: PeerId


class Network(Protocol):
    """The mesh as seen from one peer."""

    @property
    def peer_id(self) -> PeerId: ...

    def addresses(self) -> list[str]:
        """Multiaddrs, with ``/p2p/<peer id>``, at which others can reach this peer."""
        ...

    def peers(self) -> list[ConnectedPeer]: ...

    def call(self, peer: PeerId, method: str, payload: bytes) -> AbstractAsyncContextManager[Reply]:
        """Call *method* of *peer*, dialling it when needed.  Leaving the block early cancels the call at the peer.

        Raises `PeerUnreachable` naming each address tried; a peer does not call itself, so its own id is unreachable.
        Raises `MessageTooLarge` for a payload over `messages.MAX_MESSAGE_BYTES`, as `Call.send` does for an item.
        What the peer says (`Busy`, `UnknownMethod`, ...) comes from the iteration.  Deadlines are the caller's
        (`trio.fail_after`).
        """
        ...

    async def ask(self, peer: PeerId, method: str, payload: bytes) -> bytes:
        """A call with exactly one reply item; `ProtocolViolation` when there are none or more."""
        ...

    def serve(self, method: str, handler: Handler, *, at_once: int) -> None:
        """Answer *method* with *handler*, at most *at_once* at a time over all peers; more are refused as `Busy`."""
        ...

    async def connect(self, peer: PeerId, addresses: Sequence[str] = (), *, hearsay: bool = False) -> ConnectedPeer:
        """The connection to *peer*, made when there is none; *addresses* are remembered beside those known already.

        *hearsay*: not the user but the network has said them, so those of other people's LANs are left out, and all of
        them when the peer is connected directly, which says itself where it is.
        Raises `PeerUnreachable`, or `WrongNetwork` when it answers for another network.
        """
        ...

    async def provide(self, key: str) -> None:
        """Announce in the DHT, until the node stops, that this peer provides *key*; returns after the first attempt."""
        ...

    async def providers(self, key: str) -> list[PeerId]:
        """Other peers that say they provide *key*; unverified, possibly dead."""
        ...

    async def publish(self, topic: str, data: bytes) -> None:
        """Tell the other peers; it does not come back to subscriptions of this one.  `MessageTooLarge` over 64 KiB."""
        ...

    def subscribe(
        self, topic: str, validate: Callable[[bytes], GossipVerdict]
    ) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Gossip]]:
        """Join *topic*.  *validate* is pure and quick; only what it accepts is delivered and passed on.

        The channel is bounded: when its reader falls behind, the newest message is dropped and counted.
        """
        ...

    def watch(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[ConnectedPeer]]:
        """Every peer that connects from now on."""
        ...


# --- engine ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EngineModel:
    """A model that an engine can run.  *digest* covers config, tokenizer and weights."""

    name: str
    digest: bytes
    dtype: str
    context_tokens: int
    kinds: tuple[WorkKind, ...]
    shape: ModelShape


@dataclass(frozen=True, slots=True)
class EngineTokens:
    """Newly decided tokens, the end-of-text token included.  *text* is what they complete (may be empty).

    The texts of a generation together are its text: without special tokens, cut before a stop string.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    likelihoods: tuple[Likelihood, ...] = ()
    """One for each token where they are asked for, its first number as in *logprobs*; else none."""


@dataclass(frozen=True, slots=True)
class EngineFinish:
    """The last event of a generation."""

    finish: FinishReason
    prompt_tokens: int
    compute_ms: int


EngineEvent = EngineTokens | EngineFinish


@dataclass(frozen=True, slots=True)
class Replay:
    """What an engine finds when it is shown an answer: prompt and tokens, read in one pass.

    For each token its log-probability here, and its *gap*: how far, in logits, it is from being the one that this
    engine chooses in its place; 0 where it is.  *text* is what the tokens read as, *finish* how they end an answer;
    None when they do not, or go on after its end.
    """

    logprobs: tuple[float, ...]
    gaps: tuple[float, ...]
    text: str
    finish: Ending | None
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Rereading:
    """What an engine finds when it reads some texts again: a row of numbers for each, and what they are called.

    *prompt_tokens* are those of all texts of the work.
    """

    rows: tuple[tuple[float, ...], ...]
    labels: tuple[str, ...]
    prompt_tokens: int


class Generation(Protocol):
    """What an engine makes, as it is made."""

    def __aiter__(self) -> AsyncIterator[EngineEvent]: ...

    async def __anext__(self) -> EngineEvent: ...

    def stop(self) -> None:
        """Make no more: after the tokens that are made already comes an `EngineFinish`, ``cancelled`` unless they end
        the answer.  Of work that is made in one piece the rest still comes.  Text that waits for the next token is
        left out.  Does nothing once that has ended."""
        ...


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """What an engine has in memory, in bytes, of how much it may have.  It offers models that are not *loaded* too."""

    used: int
    room: int
    loaded: tuple[str, ...]
    loading: str | None


class Engine(Protocol):
    """Runs models.  Many generations at once, each its own iterator."""

    @property
    def name(self) -> str:
        """Engine and version, for adverts and receipts."""
        ...

    @property
    def models(self) -> tuple[EngineModel, ...]: ...

    @property
    def slots(self) -> int:
        """Generations that it runs at once."""
        ...

    @property
    def memory(self) -> EngineMemory | None:
        """None when another program holds the models, or nobody does now."""
        ...

    def generate(
        self, model_digest: bytes, work: Work, sampling: Sampling, seed: bytes, before: Sequence[int] = ()
    ) -> AbstractAsyncContextManager[Generation]:
        """Run one generation; its iterator ends with exactly one `EngineFinish`.  *seed* has 32 bytes.

        Entering the block admits it, or raises `UnknownModel`, `PromptTooLong`, `BadParameters` or `Busy`; the iterator
        may raise `EngineFailed`, or `BadParameters` where a request leads nowhere.  Its slot is free once it ends
        or the block is left; leaving early stops the work within a few steps.  The deadline is the caller's.

        *before* are tokens that another engine has made of the same work, sampling and seed.  This one goes on from
        them: it gives them first, with log-probabilities and text of its own, in events of their own.  When it would
        have chosen another token in any of their places, the iterator raises `CannotContinue`.
        """
        ...

    async def replay(
        self, model_digest: bytes, work: Work, sampling: Sampling, seed: bytes, token_ids: Sequence[int]
    ) -> Replay:
        """Check an answer of somebody else to the same work, sampling and seed.  Takes a slot, as a generation does.

        Raises what `generate` does.  Cancelling stops the work within a few steps.
        """
        ...

    async def reread(self, model_digest: bytes, work: Work, places: Sequence[int]) -> Rereading:
        """Read the texts at *places*, in rising order, of work that is read whole.  Otherwise as `replay`."""
        ...


# --- ledger ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chain:
    """Which ledger this is, and the contract's parameters that everybody computes with."""

    chain_id: int
    contract: Address
    params: RewardParams
    min_stake: int


@dataclass(frozen=True, slots=True)
class Due:
    """An amount on its way out, in octas, and when it may leave, in Unix seconds."""

    amount: int
    release_at: int


@dataclass(frozen=True, slots=True)
class ServerView:
    """A router's standing.  *expires_at* in Unix seconds, *max_budget* the most it may have in escrow, in octas."""

    status: Literal["authorised", "pending", "revoked"]
    expires_at: int
    max_budget: int
    escrowed: int

    def authorised(self, now: float) -> bool:
        return self.status == "authorised" and now < self.expires_at


@dataclass(frozen=True, slots=True)
class OrchestratorView:
    """An orchestrator's standing, found by its operator address.  Amounts in octas.

    *stake* is active; *unbonding* can still be slashed until it is released.  Nothing leaves while a dispute is open.
    """

    owner: Address
    public_key: PublicKey
    stake: int
    unbonding: tuple[Due, ...]
    open_disputes: int
    completed: int
    failed: int
    timed_out: int
    slashed: int
    compute_ms: int

    @property
    def frozen(self) -> bool:
        return self.open_disputes > 0


@dataclass(frozen=True, slots=True)
class ClientView:
    """A client's money with the contract, in octas.

    *deposit* can be spent by consent, *escrowed* is held for running tasks, *withdrawals* are on their way out.
    """

    public_key: PublicKey
    deposit: int
    escrowed: int
    withdrawals: tuple[Due, ...]


@dataclass(frozen=True, slots=True)
class DisputeView:
    """A completed task in doubt.  *act_by* (Unix seconds) is the owner's deadline to contest, then the arbiter's.

    The hashes commit to what both sides show the arbiter; the answer's is empty until the owner contests.
    """

    status: Literal["contested", "dismissed", "lapsed", "open", "upheld"]
    orchestrator: Address
    opener: Address
    bond: int
    evidence_hash: bytes
    answer_hash: bytes
    act_by: int


TaskStatus = Literal["completed", "created", "failed", "timed_out"]


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task in the ledger.  *split* is set once it is completed; after *done_by* (Unix seconds) anybody may end it."""

    client: Address
    server: Address
    orchestrator: Address
    status: TaskStatus
    max_price: int
    done_by: int
    split: Split | None


@dataclass(frozen=True, slots=True)
class Governance:
    """Who holds which office, and all parameters by name, in the contract's order."""

    admin: Address
    pending_admin: Address | None
    arbiter: Address
    treasury: Address
    paused: bool
    params: dict[str, int]


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of one item of a batch: its split, or the name of the contract's reason to skip it."""

    task_id: bytes
    split: Split | None
    skipped: str | None

    @property
    def settled_before(self) -> bool:
        """Skipped because this router has settled it already: nothing is lost, and nothing is left to do."""
        return self.skipped == "E_ALREADY_SETTLED"


@dataclass(frozen=True, slots=True)
class EscrowOrder:
    """What `create_task` puts into escrow beside the work: the consent, who will work, and by when (Unix seconds)."""

    consent: TaskConsent
    consent_signature: bytes
    orchestrator: Address
    accept_by: int
    done_by: int


class Ledger(Protocol):
    """The contract, as seen by one account.  Reads may be as old as the implementation's cache says.

    Every method raises `LedgerDown` when nobody answers in time, `LedgerWrongChain` when the answer comes from another
    chain, `LedgerRejected` or `LedgerAborted` when the answer is no.
    """

    @property
    def chain(self) -> Chain: ...

    async def balance(self, account: Address) -> int:
        """Coins of *account* outside the contract, in octas."""
        ...

    async def server(self, account: Address) -> ServerView | None: ...
    async def orchestrator(self, operator: Address) -> OrchestratorView | None: ...
    async def client(self, account: Address) -> ClientView | None: ...
    async def task(self, client: Address, task_id: bytes) -> TaskView | None: ...
    async def dispute(self, client: Address, task_id: bytes) -> DisputeView | None: ...
    async def governance(self) -> Governance: ...

    # as a client
    async def deposit(self, signer: Identity, amount: int) -> None: ...
    async def request_withdrawal(self, signer: Identity, amount: int) -> None:
        """Take *amount* out of what consents can spend; it can leave after the contract's waiting time."""
        ...

    async def withdraw(self, signer: Identity) -> None:
        """Pay out every withdrawal whose wait is over."""
        ...

    # as an orchestrator's owner
    async def register_orchestrator(
        self, owner: Identity, operator: PublicKey, stake: int, operator_signature: bytes = b""
    ) -> None:
        """*operator_signature* is the operator key's over `OperatorConsent`; not needed when it is the owner's own."""
        ...

    async def add_stake(self, owner: Identity, operator: Address, amount: int) -> None: ...
    async def request_unstake(self, owner: Identity, operator: Address, amount: int) -> None:
        """Begin to take *amount* out of the active stake; it can leave after the contract's unbonding time."""
        ...

    async def cancel_unstake(self, owner: Identity, operator: Address) -> None:
        """Make everything that is unbonding active again."""
        ...

    async def withdraw_stake(self, owner: Identity, operator: Address) -> None:
        """Pay out every unbonding whose wait is over."""
        ...

    async def set_operator(
        self, owner: Identity, operator: Address, successor: PublicKey, operator_signature: bytes = b""
    ) -> None:
        """Replace the operator key by *successor*, for good; its signature as in `register_orchestrator`."""
        ...

    async def contest_dispute(self, owner: Identity, client: Address, task_id: bytes, answer_hash: bytes) -> None: ...

    # as a router
    async def register_server(self, signer: Identity) -> None: ...
    async def create_task(self, signer: Identity, order: EscrowOrder) -> None: ...
    async def reassign_task(self, signer: Identity, client: Address, task_id: bytes, orchestrator: Address) -> None:
        """Have *orchestrator* go on with an escrowed task; a failure for the one it was assigned to."""
        ...

    async def complete_task(self, signer: Identity, settlement: Settlement) -> Settled: ...
    async def fail_task(self, signer: Identity, client: Address, task_id: bytes) -> None: ...
    async def settle(self, signer: Identity, batch: Sequence[Settlement]) -> list[Settled]:
        """`settle_batch`: bad items are skipped, not raised.  The result is in the order of *batch*."""
        ...

    # as anybody, after the deadline
    async def timeout_task(self, signer: Identity, client: Address, task_id: bytes) -> None: ...

    async def finalize_dispute(self, signer: Identity, client: Address, task_id: bytes) -> None: ...

    async def report_equivocation(
        self,
        signer: Identity,
        operator: PublicKey,
        first: tuple[SettlementClaim, bytes],
        second: tuple[SettlementClaim, bytes],
    ) -> None:
        """Show two claims for one task, each with *operator*'s signature, that contradict; its stake answers for it."""
        ...

    # as a task's client or router
    async def open_dispute(self, signer: Identity, client: Address, task_id: bytes, evidence_hash: bytes) -> None:
        """Doubt a completed task; costs the contract's bond if the doubt is found to be wrong."""
        ...

    # as the arbiter
    async def resolve_dispute(self, arbiter: Identity, client: Address, task_id: bytes, *, upheld: bool) -> None: ...

    # as the administrator
    async def authorise_server(self, admin: Identity, server: Address, expires_at: int, max_budget: int) -> None: ...
    async def revoke_server(self, admin: Identity, server: Address) -> None: ...
    async def propose_admin(self, admin: Identity, proposed: Address) -> None:
        """The first of two steps: nothing changes until *proposed* accepts."""
        ...

    async def accept_admin(self, proposed: Identity) -> None: ...
    async def set_treasury(self, admin: Identity, treasury: Address) -> None: ...
    async def set_arbiter(self, admin: Identity, arbiter: Address) -> None: ...
    async def set_params(self, admin: Identity, params: Mapping[str, int]) -> None:
        """All of them at once, as `Governance.params` has them."""
        ...

    async def set_paused(self, admin: Identity, *, paused: bool) -> None: ...

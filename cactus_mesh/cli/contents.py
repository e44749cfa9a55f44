"""What commands there are, in which module each lives, and what exit statuses mean; imports nothing of them."""

from __future__ import annotations

from typing import Final

SECTIONS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "First steps": {
        "demo": ("demo", "A whole mesh on this machine, at work."),
        "run": ("serve", "Join a network and serve until stopped."),
        "ask": ("ask", "Ask the mesh; the answer streams."),
        "chat": ("chat", "Talk with a model of the mesh, line by line."),
        "gateway": ("gateway", "Serve OpenAI's API on this machine."),
    },
    "Looking": {
        "doctor": ("doctor", "Check what a node here needs."),
        "top": ("top", "Watch the running node live."),
        "status": ("look", "Who the running node is, and how others reach it."),
        "peers": ("look", "The peers of the running node."),
        "ping": ("look", "The path to a peer, and its round trip."),
        "tasks": ("tasks", "This home's tasks: running, done, failed."),
        "receipts": ("receipts", "Export signed receipts, and verify them offline."),
        "earnings": ("earnings", "What tasks have earned and cost, by day and model."),
    },
    "Setting up": {
        "id": ("keys", "Who this home's key makes you."),
        "keygen": ("keys", "Make a new key file."),
        "models": ("models", "Which models this machine may serve."),
        "network": ("network", "Networks and their known peers."),
        "service": ("service", "Run a node in the background."),
        "backup": ("backup", "Write this home's key and state into a file."),
        "restore": ("backup", "Put a backup's key and state into this home."),
        "completion": ("completion", "Completion of commands for bash, zsh or fish."),
    },
    "Money": {
        "balance": ("money", "Where an account's money is, and why."),
        "deposit": ("money", "Put coins on deposit, to pay for tasks."),
        "withdraw": ("money", "Begin to take coins out of the deposit."),
        "claim": ("money", "Bring back everything that may leave now."),
        "stake": ("stakes", "Stake coins, so that work comes."),
        "unstake": ("stakes", "Begin to unbond a stake."),
        "operator-consent": ("stakes", "Let another account stake for this key."),
        "set-operator": ("stakes", "Let another key serve on an existing stake."),
    },
    "Routers and offices": {
        "register": ("admin", "Register this home's key as a router."),
        "authorize": ("admin", "Authorise a router, as the administrator."),
        "revoke": ("admin", "Take a router's authorisation away."),
        "calibrate": ("audits", "Measure how far honest replays may differ."),
        "audits": ("audits", "What this router's audits have found."),
        "dispute": ("disputes", "Doubt a finished task, answer, decide."),
        "admin": ("admin", "The contract's offices, parameters and pause."),
    },
    "For developers": {
        "devnet": ("devnet", "Run the embedded development ledger."),
        "fund": ("devnet", "Take coins from its faucet."),
        "deploy": ("deploy", "Publish the contract."),
    },
}
HIDDEN: Final = {"demo-client": "demo"}

MODULE_OF: Final = {
    **{name: module for section in SECTIONS.values() for name, (module, _) in section.items()},
    **HIDDEN,
}
ORDER: Final = tuple(name for section in SECTIONS.values() for name in section)

INTERRUPTED: Final = 130
NO_READER: Final = 141
EXIT_STATUSES: Final = {
    0: "done",
    1: "something failed that is in no other row; a report of it is welcome",
    2: "how it was called, its configuration or its files",
    3: "a peer",
    4: "the ledger, or what it says no to",
    5: "nobody could be reached",
    6: "the task cannot be done, or not as asked",
    7: "`doctor`, `receipts verify` and the like have found something wrong",
    INTERRUPTED: "stopped with Ctrl-C",
    NO_READER: "whoever read the output has gone",
}
"""Of every command; those from 2 to 6 are the `exit_status` of the branches in `errors`."""

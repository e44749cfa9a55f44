"""The embedded development ledger: the contract's rules behind the REST API of an Aptos full node, kept in SQLite.

Not a blockchain: one process, no consensus, gas that only resembles the real one.  For demos, tests and development.
"""

from cactus_mesh.ledger.devnet.service import Devnet, DevnetSettings, open_devnet, serve_devnet

__all__ = ["Devnet", "DevnetSettings", "open_devnet", "serve_devnet"]

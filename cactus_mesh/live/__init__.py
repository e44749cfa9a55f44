"""What a running process sees now, and has seen lately: for the dashboard, and for `cactus-mesh top`.

`open_live` gives a `Live` for a node or a client; a `TaskTable`, filled by who is `watching` its network
(`heard_network`), is where it learns of tasks.  Everything is bounded, and nobody else's prompt or answer is ever kept.
"""

from cactus_mesh.live.aggregator import Live, Sources, open_live
from cactus_mesh.live.tasks import TaskTable
from cactus_mesh.live.watched import watching

__all__ = ["Live", "Sources", "TaskTable", "open_live", "watching"]

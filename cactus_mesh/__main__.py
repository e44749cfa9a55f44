"""``python -m cactus_mesh``, where the ``cactus-mesh`` script is not on the path."""

from cactus_mesh.cli import main

main()

"""The worker process, ``python -m cactus_mesh.engine.runner``: the only place that imports torch and transformers."""

"""Runs models: the parent's side is torch-free, a worker process of its own holds torch and the weights."""

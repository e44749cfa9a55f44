"""One module a benchmark, one command each: ``python -m benchmarks NAME [--json]``.

A module has ``TARGETS`` (what its figures mean and should reach) and ``measure()``, which runs the contestants
interleaved, in this one process run, and returns their figures.
"""

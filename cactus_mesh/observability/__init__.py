"""What an operator sees of a running node: numbers for Prometheus, traces for OpenTelemetry.

Measures at the ports and reads what the roles keep anyway; no role knows that it is watched.
"""

from tests.contracts.fixtures import modules, tools, vm

__all__ = ["modules", "tools", "vm"]

"""Fakes of the ports, for the tests of this package and of programs that use it."""

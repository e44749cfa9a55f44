"""How a full node says no: an HTTP status, an error code, and the VM's code where the VM refused."""

from __future__ import annotations

from enum import IntEnum


class VmCode(IntEnum):
    """The validation codes of Move's StatusCode that can occur here (move-core-types, vm_status.rs)."""

    UNKNOWN_VALIDATION_STATUS = 0
    INVALID_SIGNATURE = 1
    INVALID_AUTH_KEY = 2
    SEQUENCE_NUMBER_TOO_OLD = 3
    SEQUENCE_NUMBER_TOO_NEW = 4
    INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE = 5
    TRANSACTION_EXPIRED = 6
    EXCEEDED_MAX_TRANSACTION_SIZE = 10
    UNKNOWN_SCRIPT = 11
    MAX_GAS_UNITS_EXCEEDS_MAX_GAS_UNITS_BOUND = 13
    MAX_GAS_UNITS_BELOW_MIN_TRANSACTION_GAS_UNITS = 14
    GAS_UNIT_PRICE_BELOW_MIN_BOUND = 15
    GAS_UNIT_PRICE_ABOVE_MAX_BOUND = 16
    BAD_CHAIN_ID = 23
    FEATURE_UNDER_GATING = 26
    SECONDARY_KEYS_ADDRESSES_COUNT_MISMATCH = 27
    SIGNERS_CONTAIN_DUPLICATES = 28


class Refused(Exception):
    """A request is answered with an error."""

    def __init__(self, status: int, error_code: str, message: str, vm_error_code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.message = message
        self.vm_error_code = vm_error_code


def invalid(code: VmCode) -> Refused:
    """The VM's refusal of a transaction, before it runs."""
    return Refused(400, "vm_error", f"Invalid transaction: Type: Validation Code: {code.name}", code)


def bad_input(message: str) -> Refused:
    return Refused(400, "invalid_input", message)


def misread(message: str) -> Refused:
    """A path or a query that a full node's web framework can't read, so that the request never gets to its code."""
    return Refused(400, "web_framework_error", message)


def not_found(error_code: str, message: str) -> Refused:
    return Refused(404, error_code, message)

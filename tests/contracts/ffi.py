"""How bytes cross the border to the Rust libraries; runs only in child processes."""

from __future__ import annotations

import ctypes


class UnmanagedVector(ctypes.Structure):
    """Bytes that the library owns, or none."""

    _fields_ = (
        ("is_none", ctypes.c_bool),
        ("ptr", ctypes.POINTER(ctypes.c_uint8)),
        ("len", ctypes.c_size_t),
        ("cap", ctypes.c_size_t),
    )


class View(ctypes.Structure):
    """Bytes that we own, lent for a call."""

    _fields_ = (("is_nil", ctypes.c_bool), ("ptr", ctypes.c_char_p), ("len", ctypes.c_size_t))


def lend(data: bytes) -> View:
    return View(False, data, len(data))


def none() -> UnmanagedVector:
    return UnmanagedVector(True, None, 0, 0)


def take(library: ctypes.CDLL, vector: UnmanagedVector) -> bytes | None:
    """Copy the bytes out and give the library its memory back."""
    if vector.is_none:
        return None
    data = ctypes.string_at(vector.ptr, vector.len) if vector.len else b""
    library.destroy_unmanaged_vector(vector)
    return data


def load(path: str) -> ctypes.CDLL:
    library = ctypes.CDLL(path)
    library.destroy_unmanaged_vector.argtypes = [UnmanagedVector]
    library.destroy_unmanaged_vector.restype = None
    return library


def uleb128(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def flag(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def text(value: str) -> bytes:
    return uleb128(len(value.encode())) + value.encode()


def optional_text(value: str | None) -> bytes:
    return b"\x00" if value is None else b"\x01" + text(value)


def blob(value: bytes) -> bytes:
    return uleb128(len(value)) + value

"""Noise for libp2p, cheaper than the library's: reads and writes many Noise messages at once.

The handshake is the library's, with an x25519 key as the specification demands; after it, this session encrypts and
decrypts with the handshake's keys directly.  On the wire it is the ordinary ``/noise``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from cryptography.exceptions import InvalidTag
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.utils import read_exactly
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH, NoiseTransportReadWriter
from libp2p.security.noise.transport import Transport
from libp2p.security.secure_session import SecureSession

from cactus_mesh.net.links import HANDSHAKE_BYTES, Link

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from libp2p.abc import IRawConnection, ISecureConn
    from libp2p.connection_types import ConnectionType
    from libp2p.crypto.keys import KeyPair
    from libp2p.peer.id import ID
    from multiaddr import Multiaddr
    from noise.state import CipherState

_LENGTH_BYTES: Final = 2
_KEY_BYTES: Final = 32
_NONCE_PREFIX: Final = bytes(4)


class MeshNoise(Transport):
    """The only security that our hosts offer: no plaintext, no secio."""

    def __init__(self, key_pair: KeyPair) -> None:
        super().__init__(key_pair, noise_privkey=create_x25519().private_key)

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return NoiseSession(await super().secure_inbound(conn), conn)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        """As the initiator; as the responder when both sides have dialled and *peer_id* is the smaller one."""
        assert isinstance(conn, Link)
        try:
            opening = _Opening(conn, yields=str(peer_id) < str(self.local_peer))
            handshaken = await super().secure_outbound(cast("IRawConnection", opening), peer_id)
        except _Yielded:
            handshaken = await super().secure_inbound(conn)
        return NoiseSession(handshaken, conn)


class _Yielded(Exception):
    """Both sides began the handshake, and the other side goes on with it."""


class _Opening:
    """What an initiator reads and writes.  Both sides are one when their SYNs crossed, which TCP takes for one
    connection (RFC 9293 section 3.5): then the first message of the peer with the greater id, as text, does not count.
    """

    def __init__(self, link: Link, *, yields: bool) -> None:
        self._link = link
        self._yields = yields
        self._looked = False

    async def read(self, n: int | None = None) -> bytes:
        if not self._looked:
            self._looked = True
            await self._look()
        return await self._link.read(n)

    async def _look(self) -> None:
        """Only a first message of the XX pattern is a bare key."""
        length = await read_exactly(self._link, _LENGTH_BYTES)
        if int.from_bytes(length, "big") != _KEY_BYTES:
            self._link.unread(length)
            return
        key = await read_exactly(self._link, _KEY_BYTES)
        if self._yields:
            self._link.unread(length + key)
            raise _Yielded

    async def write(self, data: bytes) -> None:
        await self._link.write(data)

    async def close(self) -> None:
        await self._link.close()


class NoiseSession(SecureSession):
    """A secured connection.  Raises OSError, also `ConnectionClosedError`, once it is broken."""

    def __init__(self, handshaken: ISecureConn, conn: IRawConnection) -> None:
        assert isinstance(handshaken, SecureSession)
        assert isinstance(handshaken.conn, NoiseTransportReadWriter)
        assert isinstance(conn, Link)
        super().__init__(
            local_peer=handshaken.local_peer,
            local_private_key=handshaken.local_private_key,
            remote_peer=handshaken.remote_peer,
            remote_permanent_pubkey=handshaken.remote_permanent_pubkey,
            is_initiator=handshaken.is_initiator,
            conn=handshaken.conn,
        )
        state = handshaken.conn.noise_state.noise_protocol
        self._link = conn
        self._encrypt, self._sent = _cipher(state.cipher_state_encrypt)
        self._decrypt, self._received = _cipher(state.cipher_state_decrypt)
        self._in = bytearray()
        self._ahead = b""
        self._unsent = bytearray()
        self._draining = False

    # --- reading -------------------------------------------------------------------------------------------------

    async def read_some(self) -> bytes:
        """Everything decrypted that has come, at least one byte.  Raises `ConnectionClosedError` at the end."""
        plain, self._ahead = self._ahead, b""
        while not plain:
            data = await self._link.read_some()
            if not data:
                raise ConnectionClosedError("the other side closed the connection")
            self._in += data
            plain = self._decrypt_all()
        return plain

    async def read(self, n: int | None = None) -> bytes:
        """Exactly *n* bytes, as the library's session; what has come when *n* is None."""
        if n is None:
            return await self.read_some()
        if n > HANDSHAKE_BYTES:
            raise ConnectionClosedError("the other side announces a handshake without end")
        parts = b""
        while len(parts) < n:
            parts += await self.read_some()
        self._ahead = parts[n:] + self._ahead
        return parts[:n]

    def _decrypt_all(self) -> bytes:
        buffer = self._in
        plain: list[bytes] = []
        at, end = 0, len(buffer)
        while end - at >= _LENGTH_BYTES:
            until = at + _LENGTH_BYTES + int.from_bytes(buffer[at : at + _LENGTH_BYTES], "big")
            if until > end:
                break
            nonce = _NONCE_PREFIX + self._received.to_bytes(8, "little")
            try:
                plain.append(self._decrypt.decrypt(nonce, bytes(buffer[at + _LENGTH_BYTES : until]), None))
            except InvalidTag:
                raise ConnectionClosedError("the other side sent bytes that do not decrypt") from None
            self._received += 1
            at = until
        del buffer[:at]
        return plain[0] if len(plain) == 1 else b"".join(plain)

    # --- writing -------------------------------------------------------------------------------------------------

    def post(self, data: bytes) -> bool:
        """Encrypt *data* and send what goes without waiting; whether that was all.  If not, `drain` before more."""
        wire = self._encrypt_all(data)
        if self._unsent or self._draining:
            self._unsent += wire
            return False
        sent = self._link.send_now(wire)
        if sent < len(wire):
            self._unsent += wire[sent:]
        return sent == len(wire)

    async def drain(self) -> None:
        """Send the rest.  When cancelled, some of it may have gone: the connection must be closed then."""
        self._draining = True
        while self._unsent:
            wire = bytes(self._unsent)
            self._unsent.clear()
            await self._link.write(wire)
        self._draining = False

    async def write(self, data: bytes) -> None:
        self.post(data)
        await self.drain()

    def _encrypt_all(self, data: bytes) -> bytes:
        wire: list[bytes] = []
        for at in range(0, len(data), MAX_PLAINTEXT_LENGTH):
            nonce = _NONCE_PREFIX + self._sent.to_bytes(8, "little")
            self._sent += 1
            sealed = self._encrypt.encrypt(nonce, data[at : at + MAX_PLAINTEXT_LENGTH], None)
            wire.append(len(sealed).to_bytes(_LENGTH_BYTES, "big"))
            wire.append(sealed)
        return b"".join(wire)

    # --- the rest ------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        await self._link.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._link.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self._link.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self._link.get_connection_type()


def _cipher(state: CipherState) -> tuple[ChaCha20Poly1305, int]:
    """The key and the next nonce (Noise specification, section 5.1)."""
    return cast("ChaCha20Poly1305", state.cipher.cipher), cast("int", state.n)

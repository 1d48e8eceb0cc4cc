"""A packet that [[test_run]] describes: Ethernet, IPv4 or IPv6, UDP or TCP, and what it carries."""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from kmatrix.host.validation import Strict

Port = Annotated[int, Field(ge=0, le=65535)]
_PROTOCOLS = {"tcp": 6, "udp": 17}
_SYN = 0x02


class Packet(Strict):
    """An Ethernet frame with right lengths and checksums."""

    protocol: Literal["tcp", "udp"]
    src: str = "192.0.2.1"
    dst: str = "192.0.2.2"
    """Addresses, both IPv4 or both IPv6 (the defaults are documentation addresses, RFC 5737)."""
    sport: Port = 40000
    dport: Port
    payload: str = ""
    """In hexadecimal digits."""

    @field_validator("payload")
    @classmethod
    def _hex(cls, text: str) -> str:
        digits = re.sub(r"[\s:]", "", text)
        if not re.fullmatch(r"([0-9a-fA-F]{2})*", digits):
            raise ValueError(f"{text[:40]!r} is not bytes in hexadecimal digits")
        return digits

    @model_validator(mode="after")
    def _addresses(self) -> Packet:
        try:
            versions = {ipaddress.ip_address(text).version for text in (self.src, self.dst)}
        except ValueError as error:
            raise ValueError(f"{error}") from None
        if len(versions) > 1:
            raise ValueError(f"src {self.src} and dst {self.dst} are of different families: give both as IPv4, or both as IPv6")
        return self

    def bytes(self) -> bytes:
        """The frame: zero MAC addresses, a TCP SYN or a UDP datagram. RFC 791, 8200, 768, 9293."""
        src, dst = (ipaddress.ip_address(text) for text in (self.src, self.dst))
        number, payload = _PROTOCOLS[self.protocol], bytes.fromhex(self.payload)
        if self.protocol == "udp":
            head, at = struct.pack("!HHHH", self.sport, self.dport, 8 + len(payload), 0), 6
        else:
            head, at = struct.pack("!HHIIBBHHH", self.sport, self.dport, 0, 0, 5 << 4, _SYN, 65535, 0, 0), 16
        segment = head + payload
        pseudo = src.packed + dst.packed
        pseudo += struct.pack("!BBH", 0, number, len(segment)) if src.version == 4 else struct.pack("!II", len(segment), number)
        total = _checksum(pseudo + segment) or 0xFFFF
        segment = segment[:at] + struct.pack("!H", total) + segment[at + 2 :]
        if src.version == 4:
            fixed = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(segment), 0, 0, 64, number)
            addresses = src.packed + dst.packed
            network = fixed + struct.pack("!H", _checksum(fixed + b"\0\0" + addresses)) + addresses
        else:
            network = struct.pack("!IHBB", 6 << 28, len(segment), number, 64) + src.packed + dst.packed
        return bytes(12) + struct.pack("!H", 0x0800 if src.version == 4 else 0x86DD) + network + segment


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

"""Triggers on the network: those of each subject."""

from __future__ import annotations

from collections.abc import Mapping

from . import dns, tcp, udp, unix, veth
from .kind import Kind

KINDS: Mapping[str, Kind] = {**dns.KINDS, **tcp.KINDS, **udp.KINDS, **unix.KINDS, **veth.KINDS}

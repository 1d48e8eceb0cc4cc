"""equations(): what the fields of an event must be, as far as their names say: what a trigger knows has the same names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from kmatrix.guest import triggers
from kmatrix.guest.triggers.kind import ALWAYS
from kmatrix.objects.layout import Leaf
from kmatrix.propose.hooks import place, telling
from kmatrix.propose.shape import by_name

_SPELT: Mapping[str, tuple[str, ...]] = {
    "pid": ("pid", "fpid"),
    "ppid": ("ppid", "parent_pid", "ptgid"),
    "uid": ("uid", "user_id"),
    "gid": ("gid", "group_id"),
    "comm": ("comm", "task", "task_name", "process_name", "fcomm"),
    "cgroup_id": ("cgroup_id", "cgid", "cgroupid", "cgroup"),
    "path": ("path", "filename", "fname", "file_name", "pathname"),
    "filename": ("filename", "path", "fname", "file_name", "pathname"),
    "ret": ("ret", "retval"),
    "victim": ("victim", "victim_pid", "tpid"),
    "limit_pages": ("limit_pages", "pages", "totalpages"),
    "saddr": ("saddr", "saddr_v4", "src_addr", "laddr"),
    "daddr": ("daddr", "daddr_v4", "dst_addr", "raddr"),
    "sport": ("sport", "lport", "src_port"),
    "dport": ("dport", "rport", "dst_port"),
    "family": ("family", "af"),
    "query_id": ("query_id", "id", "txid"),
    "query_flags": ("query_flags", "flags"),
    "question": ("question", "qname"),
}
"""What a trigger knows → what fields are called that hold it. Of other names, a field of the same name."""
_TEXTS = ("comm", "path", "filename", "victim_comm", "question", "message", "name")
_ADDRESSES = ("saddr", "daddr")
_PORTS = ("sport", "dport")
_OF_EXEC, _OF_EXIT = ("path", "filename"), ("exit_code", "exit_status")
"""What an exec knows of the program that starts, and of the process that ends."""


@dataclass(frozen=True)
class Check:
    """What is said of a field: keys of [[event.field]], and a remark."""

    keys: Mapping[str, object] = field(default_factory=dict)
    remark: str = ""


@dataclass(frozen=True)
class Equations:
    """What is said of an event."""

    match: Mapping[str, str]
    checks: Mapping[str, Check]
    """By the field's path."""


def equations(kind: str, leaves: Sequence[Leaf], senders: Collection[str]) -> Equations:
    """What the trigger `kind` makes of a record with these fields, sent by programs in the sections `senders`."""
    known = {**ALWAYS, **triggers.KINDS[kind].known}
    found, names = by_name(leaves), _names(known)
    checks: dict[str, Check] = {}
    holds: dict[str, str] = {}
    for name, leaf in found.items():
        what = names.get(name)
        check = _check(kind, what, leaf, senders) if what is not None else None
        if what is not None and check is not None:
            checks[leaf.path] = check
            if "equals" in check.keys:
                holds.setdefault(what, leaf.path)
    if "pid" in found and "tgid" not in found and "thread" in triggers.KINDS[kind].known.get("pid", ""):
        _told_apart(checks, holds, found)
    return Equations(_match(kind, holds), checks)


def _names(known: Collection[str]) -> dict[str, str]:
    """What a field is called → what the trigger knows that it is."""
    found = {name: name for name in known}
    for what, names in _SPELT.items():
        if what in known:
            for name in names:
                found.setdefault(name, what)
    return found


def _check(kind: str, what: str, leaf: Leaf, senders: Collection[str]) -> Check | None:
    """What is said of a field that is what the trigger knows by the name `what`; None where it cannot be that by its type."""
    keys: dict[str, object] = {"equals": f"known.{what}"}
    text = leaf.type.startswith("char[")
    if text != (what in _TEXTS):
        return None
    if what in _ADDRESSES:
        return Check({"type": "ipv4", **keys}) if leaf.size == 4 and not leaf.type.startswith("bytes") else None
    if leaf.type.startswith("bytes"):
        return None
    if what in _PORTS and leaf.type == "u16":
        return Check({}, f'equals = "known.{what}", and type = "be16" where it is in network order')
    if what == "cgroup_id":
        keys |= {"degradable": True, "needs": ["cgroup_v2"], "absent": 0}
    places = {place(section) for section in senders}
    ends = places & {"sched_process_exit", "do_exit", "do_group_exit"}
    if kind == "exec" and ((what in _OF_EXEC and ends) or (what in _OF_EXIT and ends != places)):
        when = "starts" if what in _OF_EXEC else "ends"
        return Check({}, f'equals = "known.{what}" in the event of a program that {when}')
    return Check(keys)


def _told_apart(checks: dict[str, Check], holds: dict[str, str], found: Mapping[str, Leaf]) -> None:
    """A trigger that acts in a second thread, whose id is not its process's: which of them a field `pid` is, its name does not tell."""
    path = found["pid"].path
    holds.pop("pid", None)
    if "tid" in found and found["tid"].type in ("u32", "s32"):
        checks[path], checks[found["tid"].path] = Check({"equals": "known.tgid"}), Check({"equals": "known.pid"})
        holds["tgid"] = path
    else:
        checks[path] = Check({"one_of": ["known.pid", "known.tgid"]}, "the thread's id, or the process's: keep the one that it is")


def _match(kind: str, holds: Mapping[str, str]) -> dict[str, str]:
    """Which events are meant: of that process, and of several of its events, which."""
    who = next((name for name in ("tgid", "pid", "comm", *holds) if name in holds), None)
    apart = [name for name in holds if name in telling(kind)]
    if not apart and "ret" in holds and any(name.endswith("_ret") for name in triggers.KINDS[kind].known):
        apart = ["ret"]  # it does the same twice, and the second time it fails
    if kind == "dns" and apart:
        who = None
    return {holds[name]: f"known.{name}" for name in dict.fromkeys((*([who] if who else []), *apart))}

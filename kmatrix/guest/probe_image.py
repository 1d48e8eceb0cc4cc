"""Probes of one kernel's image: its types, symbols, tracepoints, options, settings and modules."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress

from .probing import Answer, Kernel, writable
from .sysctl import file_of

Config = Mapping[str, str]
"""Options without CONFIG_ and their values; those that are not set are not there."""


def btf(here: Kernel, parameter: str) -> Answer:
    """Look a type, a field or a function up in the kernel's own BTF (that of modules is not looked into)."""
    if here.btf is None:
        return False, here.btf_why or "the kernel has no BTF"
    if parameter.startswith("func/"):
        name, _, wanted = parameter.removeprefix("func/").partition("/")
        count = here.types.arguments(name)
        if count is None:
            return False, f"the BTF has no function {name}"
        return not wanted or int(wanted) == count, f"{name} takes {count} argument{'' if count == 1 else 's'}"
    kind, _, path = parameter.rpartition(" ")
    return here.types.has(kind, path.split("."))


def symbol(here: Kernel, name: str) -> Answer:
    """Put a kprobe on it and take it away; where that fails, /proc/kallsyms says whether there is such a function."""
    there, said = writable(here, "kprobe_events", f"p:kmatrix/probe {name}", "-:kmatrix/probe")
    if there is not False:
        return there, said
    with suppress(OSError), open("/proc/kallsyms", "rb") as file:
        if re.search(rb"^\S+ [tTwW] " + re.escape(name.encode()) + rb"(\t|$)", file.read(), re.MULTILINE):
            return False, f"it is in /proc/kallsyms, and cannot be probed ({said})"
    return False, "it is not in /proc/kallsyms"


def tracepoint(here: Kernel, parameter: str) -> Answer:
    """Look for the tracepoint's folder in tracefs."""
    if here.tracefs is None:
        return None, "tracefs is not mounted"
    there = os.path.exists(f"{here.tracefs}/events/{parameter}/id")
    return there, f"events/{parameter} is {'there' if there else 'not there'}"


def tracepoint_field(here: Kernel, parameter: str) -> Answer:
    """Read the tracepoint's format."""
    if here.tracefs is None:
        return None, "tracefs is not mounted"
    event, _, name = parameter.rpartition(".")
    try:
        with open(f"{here.tracefs}/events/{event}/format") as file:
            fields = re.findall(r"^\s*field:.*?(\w+)(?:\[[^\]]*\])?;", file.read(), re.MULTILINE)
    except OSError:
        return False, f"events/{event} is not there"
    return name in fields, f"its fields are {', '.join(each for each in fields if not each.startswith('common_'))}"


def config(here: Kernel, parameter: str, image: Config | None) -> Answer:
    """Read /proc/config.gz, or `image`: the file that came with the kernel's image."""
    options = image if image is not None else here.config
    if options is None:
        return None, "neither the kernel shows its configuration, nor was there a file with its image"
    name, given, wanted = parameter.partition("=")
    value = options.get(name, "n").strip('"')
    return value == wanted if given else value in ("y", "m"), f"CONFIG_{name}={value}"


def sysctl(_: Kernel, parameter: str) -> Answer:
    """Read the setting in /proc/sys."""
    name, given, wanted = parameter.partition("=")
    try:
        with open(file_of(name)) as file:
            value = " ".join(file.read().split())
    except FileNotFoundError:
        return False, f"there is no setting {name}"
    except OSError as error:
        return None, f"{name} cannot be read: {error.strerror}"
    return not given or value == wanted, f"{name} is {value}"


def module(here: Kernel, parameter: str) -> Answer:
    """Look in /sys/module (loaded, or built in with parameters), and in the lists of /lib/modules (built in; there to be loaded)."""
    name = parameter.replace("-", "_")
    if os.path.isdir(f"/sys/module/{name}"):
        return True, "it is in /sys/module"
    folder = f"/lib/modules/{here.release}"
    listed = False
    for file, words in (("modules.builtin", "it is built in"), ("modules.dep", "it can be loaded")):
        with suppress(OSError), open(f"{folder}/{file}") as lines:
            listed = True
            for line in lines:
                if os.path.basename(line.split(":")[0].strip()).split(".ko")[0].replace("-", "_") == name:
                    return True, words
    return (False, f"it is not in {folder}") if listed else (None, f"it is not in /sys/module, and there is no {folder}")

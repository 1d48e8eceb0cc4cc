"""What a failure's fix tells a person to do: it names what kmatrix has for the case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kmatrix.host.errors import InputError
from kmatrix.objects.compiled import inspect
from kmatrix.verdict.diagnosis import Diagnosis, Failing, diagnose


def cause(stage: str, error: str = "", version: tuple[int, int] = (6, 1), arch: Any = "x86_64", **more: Any) -> Diagnosis:
    found = diagnose(Failing(stage=stage, error=error, version=version, arch=arch, **more))
    assert found is not None
    return found


def of_map(kind: str, name: str = "m", **more: Any) -> str:
    found = cause("map", f"map '{name}': failed to create: Invalid argument(-22)", errno=22, name=name, map_type=kind, **more)
    assert found.kind == "map-size"
    return found.fix


@pytest.mark.parametrize(("flags", "size"), [(0, 1016), (32, 4064)])
def test_a_stack_map_without_a_size_is_one_that_the_loader_sizes(flags: int, size: int) -> None:
    fix = of_map("stack_trace", "stackmap", max_entries=10, shape={"key_size": 4, "value_size": 0, "flags": flags})
    assert f"value_size = {size} under [maps.stackmap] in X.contract.toml" in fix
    assert "X.contract.toml" not in of_map("stack_trace", max_entries=10, shape={"key_size": 4, "value_size": 12, "flags": 0})


def test_all_sizes_that_are_missing_are_told_at_once() -> None:
    fix = of_map("stack_trace", "stackmap", max_entries=0, shape={"key_size": 4, "value_size": 0})
    assert "value_size = 1016 and max_entries = N under [maps.stackmap]" in fix


def test_values_and_keys_without_a_size_too() -> None:
    assert "value_size = N under [maps.m]" in of_map("hash", max_entries=1, shape={"key_size": 4, "value_size": 0})
    assert "key_size = N under [maps.m]" in of_map("hash", max_entries=1, shape={"key_size": 0, "value_size": 4})


def test_a_map_without_entries_has_the_option_and_the_key() -> None:
    shape = {"key_size": 4, "value_size": 8}
    fix = of_map("hash", "start", max_entries=0, shape=shape)
    assert "--max-entries start=N, or max_entries = N under [maps.start] in X.contract.toml" in fix
    assert "the key inner under [maps.outer]" in of_map("hash", "outer.inner", max_entries=0, shape=shape)


def placeholder(section: str, error: str) -> str:
    found = cause("load", error, section=section, name="p")
    assert found.kind == "placeholder"
    return found.fix


def test_a_placeholder_has_the_option_that_names_its_target() -> None:
    absent = "prog 'p': failed to find kernel BTF type ID of 'dummy_fentry': -3"
    fix = placeholder("fentry/dummy_fentry", absent)
    assert "--attach-to PROGRAM=FUNCTION" in fix
    assert "attach_to under [programs.PROGRAM]" in fix
    nowhere = "prog 'p': section 'uprobe/readline' missing ':function[+offset]' specification"
    found = cause("attach", nowhere, section="uprobe/readline", errno=22)
    assert found.kind == "placeholder"
    assert "--attach-to PROGRAM=PATH:FUNCTION" in found.fix
    assert "--attach-to" not in placeholder("freplace/some", "prog 'p': attach program FD is not set")


@pytest.mark.parametrize(("kind", "instead"), [("fentry", "a kprobe"), ("fexit", "a kretprobe"), ("fmod_ret", "another program")])
def test_before_trampolines_each_kind_has_its_own_way(kind: str, instead: str) -> None:
    wants = {"type": "tracing", "attach_type": 24}
    found = cause("load", "prog 'p': BPF program load failed: Invalid argument", (5, 4), section=f"{kind}/x", errno=22, wants=wants)
    assert found.kind == "attach-type"
    assert instead in found.fix


def test_a_folder_is_no_object_and_its_objects_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        inspect(tmp_path)
    assert raised.value.fix == f"name the objects in it: {tmp_path}/*.o"


def test_a_function_that_is_nowhere_is_told_alike_for_each_kind_of_program() -> None:
    absent = "prog 'p': failed to find kernel BTF type ID of 'md_flush_request': -3"
    fentry = cause("load", absent, section="fentry/md_flush_request", errno=3)
    hook = {"symbol": {"name": "md_flush_request", "there": False, "alike": []}}
    kprobe = cause("attach", "prog 'p': failed to attach", section="kprobe/md_flush_request", errno=2, btf=hook)
    assert fentry.fix == kprobe.fix
    assert "a function of a module is there once the module is loaded" in kprobe.fix
    assert fentry.what == "btf:func/md_flush_request is not in this kernel, nor in a module that is loaded"
    assert kprobe.what == "symbol md_flush_request: this kernel has no such function, nor has a module that is loaded"
    older = cause("load", absent, (5, 10), section="fentry/md_flush_request", errno=3)
    assert "module" not in older.what
    assert "a function of a module takes a kprobe before 5.11" in older.fix
    hook["symbol"] |= {"there": True}
    unprobed = cause(
        "attach", "prog 'p': failed to create kprobe 'x' perf event", section="kprobe/md_flush_request", errno=22, btf=hook
    )
    assert "module" not in unprobed.fix


@pytest.mark.parametrize(
    ("line", "number", "clause"),
    [
        ("bpf_probe_read_user_str(&it, 8, at)", 45, "bpf_probe_read_str (libbpf put it in the place of bpf_probe_read_user_str,"),
        ("bpf_probe_read_user(&it, 8, at)", 4, "bpf_probe_read (libbpf put it in the place of bpf_probe_read_user,"),
        ("bpf_probe_read_str(&it, 8, at)", 45, "bpf_probe_read_str: this kernel is locked down"),
        ("bpf_probe_read_user(&it, 8, at)", 45, "bpf_probe_read_str: this kernel is locked down"),
    ],
)
def test_a_helper_that_libbpf_put_in_the_place_of_a_newer_one(line: str, number: int, clause: str) -> None:
    said = "prog 'p': BPF program load failed: Invalid argument"
    log = f"; {line}\n5: (85) call unknown#{number}\nunknown func it#{number}\n"
    found = cause("load", said, section="kprobe/x", errno=22, log=log, wants={"type": "kprobe"})
    assert found.kind == "lockdown"
    assert found.what.startswith(f"helper {clause}")

"""The `git` source: a ref of a repository here or elsewhere, built. The commit that it was is in the manifest."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kmatrix.fetch import network
from kmatrix.fetch.gpgv import dearmor, verify
from kmatrix.host.errors import InfraError, InputError, Unavailable, without_credentials
from kmatrix.host.progress import Reporter
from kmatrix.kernels import build, trust
from kmatrix.kernels.entry import StagedKernel
from kmatrix.kernels.sources.tarball import unpack
from kmatrix.matrix.arch import Arch
from kmatrix.matrix.kernel import Kernel, SourceSpec
from kmatrix.matrix.sources import REMOTE

_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "https:http:git:ssh:file",  # not ext:, which runs what it is told
    "GIT_CONFIG_NOSYSTEM": "1",
    "LC_ALL": "C",
}
_STALLED = 60
"""Seconds after which a server that sends less than a byte a second is given up."""


class GitSource:
    """Builds a commit of a git repository: some minutes."""

    kind = "git"
    fetches = True
    slow = True

    def hint(self, spec: SourceSpec, kernel: Kernel, arch: Arch) -> str:  # noqa: ARG002 - the protocol's arguments
        """The command that gets this kernel."""
        return f"kmatrix kernels fetch {kernel.name} --arch {arch}"

    def origin(self, source: Mapping[str, Any]) -> str:
        """What the store's kernel came from, in a few words; `source` is what `stage` said of it."""
        return f"built from {source['url']} at {source['commit'][:12]}"

    def stage(self, spec: SourceSpec, kernel: Kernel, arch: Arch, into: Path, reporter: Reporter) -> StagedKernel:
        """Fetch the one commit, and build it. Raises what `build.stage` raises, and:

        Unavailable when repository or ref cannot be had, InfraError when the commit is not the one that it must be or the tag's signature is
        bad, InputError when nothing vouches for it.
        """
        label = f"{kernel.name}-{arch}"
        repository, commit, vouched = _commit(spec, kernel, into.parent, label, reporter)
        file = into.parent / "source.tar"
        with reporter.step(f"{label}: taking commit {commit[:12]}"):
            _git(repository, "archive", "--format=tar", f"--output={file}", commit)
        tree = unpack(file, into.parent / "source", label, reporter, where=f"{spec.options['url'][0]} {commit}")
        built = build.stage(build.Recipe(tree, arch), kernel, into, reporter)
        about = {key: value for key, value in built.source.items() if key not in ("kind", "tree")}
        about |= {
            "url": without_credentials(spec.options["url"][0]),
            "ref": spec.options["ref"],
            "commit": commit,
            "trust": vouched,
        }
        return replace(built, source=trust.provenance(self.kind, [], {"commit": commit}, **about))


def _commit(spec: SourceSpec, kernel: Kernel, scratch: Path, label: str, reporter: Reporter) -> tuple[Path, str, str]:
    """A repository on disk with the commit wanted in it, that commit, and why it is believed."""
    (url, *more), ref, where = spec.options["url"], spec.options["ref"], f'{kernel.declared_in}: kernels."{kernel.name}".sources'
    pinned, keys, local = spec.options.get("commit"), trust.keys(spec, kernel), not REMOTE.fullmatch(url)
    if more or ref.startswith("-") or (urlsplit(url).scheme and local):
        raise InputError("a git source has one url (https://…, or a folder) and one ref", where=where, fix="correct url and ref")
    if not (pinned or keys or local or trust.first_use(spec)):
        raise trust.refuse(f"{ref} of {url}", where)
    if local:
        repository = Path(kernel.declared_in).parent / Path(url).expanduser()
        if not repository.is_dir():
            raise Unavailable("there is no such repository", where=str(repository))
        wanted = pinned or ref
    else:
        url, repository = network.mirrored(url), scratch / "repository"
        network.require_network(url)
        wanted = "refs/kmatrix/wanted"
        _git(scratch, "init", "--quiet", "--bare", str(repository))
        with reporter.step(f"{label}: fetching {ref} of {without_credentials(url)}"):
            _git(
                repository,
                "fetch",
                "--quiet",
                "--depth=1",
                "--no-tags",
                url,
                f"+{pinned or ref}:{wanted}",
                https_only=urlsplit(url).scheme == "https" and not pinned,
            )
    tag = _git(repository, "rev-parse", "--verify", "--end-of-options", wanted).strip()
    commit = _git(repository, "rev-parse", "--verify", "--end-of-options", f"{wanted}^{{commit}}").strip()
    if pinned is not None:
        if commit != pinned:
            raise InfraError(f"is commit {commit}, and {pinned} was asked for", where=f"{url} {ref}")
        return repository, commit, "the commit in kernels.toml"
    if keys is not None:
        text, begin, signature = _git(repository, "cat-file", "-p", tag).partition("-----BEGIN PGP SIGNATURE-----")
        if not begin:
            raise InfraError("is no signed tag", where=f"{url} {ref}", fix="name a signed tag, or give commit instead of key")
        verify(
            text.encode(errors="surrogateescape"),
            keys,
            where=f"{url} {ref}",
            signature=dearmor(begin + signature),
            fix="the key is kernels.toml's",
        )
        said = next((line.removeprefix("tag ") for line in text.splitlines() if line.startswith("tag ")), "")
        if said != ref.removeprefix("refs/").removeprefix("tags/"):  # an old release under a new name is signed all the same
            raise InfraError(f"is the signed tag {said!r}", where=f"{url} {ref}", fix="try again later, or from another repository")
        return repository, commit, "the signed tag"
    return repository, commit, "a repository on this machine" if local else trust.FIRST_USE


def _git(repository: Path, *arguments: str, https_only: bool = False) -> str:
    """What git says; with `https_only` it follows no redirect to anything less. Raises Unavailable with git's own words where it fails, InfraError where it is not installed."""
    binary = shutil.which("git")
    if binary is None:
        raise InfraError("git is not installed", fix="apt-get install git")
    settings = ("core.hooksPath=/dev/null", "transfer.fsckObjects=true", "http.lowSpeedLimit=1", f"http.lowSpeedTime={_STALLED}")
    allowed = {"GIT_ALLOW_PROTOCOL": "https"} if https_only else {}
    done = subprocess.run(
        [binary, "-C", str(repository), *(word for setting in settings for word in ("-c", setting)), *arguments],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        stdin=subprocess.DEVNULL,
        env={f"{scheme}_proxy": proxy for scheme, proxy in network.proxies()} | os.environ | _ENVIRONMENT | allowed,
    )
    if done.returncode != 0:
        said = [
            line for line in done.stderr.strip().splitlines() if line.startswith(("fatal:", "error:"))
        ] or done.stderr.strip().splitlines()
        raise Unavailable(f"git says: {said[-1] if said else f'exit status {done.returncode}'}", where=" ".join(arguments[-2:]))
    return done.stdout

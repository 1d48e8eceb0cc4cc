"""The one door to the network: `offline`, mirrors, proxies, credentials and timeouts are seen to here, for whoever fetches.

`offline` is enforced in the one adapter that opens connections.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth

from kmatrix.fetch.network import mirrored, proxies, require_network
from kmatrix.host.errors import InfraError, without_credentials

_TIMEOUT = (15, 60)  # seconds to connect, and between two reads
_HEADERS = {"User-Agent": "kmatrix", "Accept-Encoding": "identity"}
_local = threading.local()


class _Credentials(AuthBase):
    """What requests does by itself (an address's own user and password, else ~/.netrc's), but never over a header that the caller gave."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if "Authorization" not in request.headers:
            url = str(request.url)
            given = requests.utils.get_auth_from_url(url)
            found = given if any(given) else requests.utils.get_netrc_auth(url)
            if found is not None:
                HTTPBasicAuth(*found)(request)
        return request


class _Door(HTTPAdapter):
    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        require_network(str(request.url))
        return super().send(request, *args, **kwargs)


class _Session(requests.Session):
    verified = False
    """Whether what comes of the request under way is compared with a digest that is known already."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where an answer leads. Raises InfraError where that is from https to plain http, and nothing would tell what was changed on the way."""
        target: str | None = super().get_redirect_target(resp)
        there = urljoin(str(resp.url), target) if target is not None else ""
        if urlsplit(str(resp.url)).scheme == "https" and urlsplit(there).scheme == "http" and not self.verified:
            raise InfraError(
                f"leads from https to {without_credentials(there)}, where it could be changed on the way unseen",
                where=without_credentials(str(resp.url)),
                fix="give the digest of what must come (sha256), or name an https address or a mirror in kernels.toml: [mirrors]",
            )
        return target

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        address = mirrored(url.decode() if isinstance(url, bytes) else url)
        kwargs.setdefault("timeout", _TIMEOUT)
        # What the environment says (http_proxy, no_proxy) goes before what apt is told.
        if not requests.utils.get_environ_proxies(address) and not requests.utils.should_bypass_proxies(address, None):
            kwargs.setdefault("proxies", dict(proxies()))
        return super().request(method, address, *args, **kwargs)

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        if self.should_strip_auth(str(response.request.url), str(prepared_request.url)):  # type: ignore[no-untyped-call]
            prepared_request.headers.pop("Authorization", None)
        _Credentials()(prepared_request)


@contextmanager
def verifying(*, verified: bool) -> Iterator[requests.Session]:
    """This thread's session; `verified` while the block lasts: what comes is compared with a digest, so that a redirect may be of any kind."""
    found = session()
    found.verified = verified
    try:
        yield found
    finally:
        found.verified = False


def session() -> _Session:
    """This thread's session, for whoever speaks more than a plain GET: offline, mirrors, proxies and timeouts are seen to.

    No redirect from https to http is followed (but see `verifying`).
    """
    found: _Session | None = getattr(_local, "session", None)
    if found is None:
        found = _local.session = _Session()
        found.headers.update(_HEADERS)
        found.auth = _Credentials()
        for scheme in ("http://", "https://"):
            found.mount(scheme, _Door())
    return found

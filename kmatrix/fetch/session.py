"""The one door to the network: `offline`, mirrors, proxies, credentials and timeouts are seen to here, for whoever fetches.

`offline` is enforced in the one adapter that opens connections.
"""

from __future__ import annotations

import threading
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth

from kmatrix.fetch.network import mirrored, proxies, require_network

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


def session() -> requests.Session:
    """This thread's session, for whoever speaks more than a plain GET: offline, mirrors, proxies and timeouts are seen to."""
    found: requests.Session | None = getattr(_local, "session", None)
    if found is None:
        found = _local.session = _Session()
        found.headers.update(_HEADERS)
        found.auth = _Credentials()
        for scheme in ("http://", "https://"):
            found.mount(scheme, _Door())
    return found

"""What went wrong on the network, in words that say what to do."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import requests
import urllib3

_NEVER = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema)
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"


def passing(error: Exception) -> bool:
    """Whether the next try may do better."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in (408, 429, 500, 502, 503, 504)
    return not isinstance(error, _NEVER) and _UNTRUSTED not in str(error) and not _unresolved(error)


def _unresolved(error: BaseException) -> bool:
    """Whether a host's name was not found: on a machine that is offline, it will not be in a few seconds either."""
    inside = [getattr(error, "reason", None), getattr(error, "original_error", None), error.__cause__, *error.args]
    return isinstance(error, urllib3.exceptions.NameResolutionError | socket.gaierror) or any(
        _unresolved(each) for each in inside if isinstance(each, BaseException)
    )


def plain(error: Exception) -> tuple[str, str]:
    """What is the matter, and what to do about it."""
    fix = "check the network and the proxy (http_proxy), or name a mirror in kernels.toml: [mirrors]"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server says {error.response.status_code} {error.response.reason}", fix
    if isinstance(error, _NEVER):
        return (
            f"that is no address ({error})",
            "correct it in kernels.toml, or the proxy's in the environment (http_proxy, https_proxy)",
        )
    host = urlsplit(str(error.request.url)).hostname if isinstance(error, requests.RequestException) and error.request else None
    if isinstance(error, requests.exceptions.SSLError):
        if _UNTRUSTED in str(error):
            fix = "check this machine's clock; name the bundle of certificates of your own server in REQUESTS_CA_BUNDLE"
            return f"the certificate of {host} is not trusted ({_cause(error)})", fix
        return (
            f"no TLS with {host} ({_cause(error)})",
            "check that it speaks https at that port, and the proxy between (https_proxy)",
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return f"no connection to {host} through the proxy ({_cause(error)})", (
            "correct http_proxy and https_proxy (or apt's Acquire::http::Proxy), or name the host in no_proxy"
        )
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "the server does not answer", fix
    if isinstance(error, requests.ConnectionError):
        address = urlsplit(str(error.request.url)).netloc.rpartition("@")[2] if error.request else "the server"
        return f"no connection to {address} ({_cause(error)})", fix
    return str(error), fix


def _cause(error: BaseException) -> str:
    """The innermost words of an error that others were wrapped around: what the operating system, or OpenSSL, says."""
    while True:
        inside = [each for each in (getattr(error, "reason", None), getattr(error, "original_error", None), *error.args) if each]
        inner = next((each for each in inside if isinstance(each, BaseException)), None)
        if inner is None:
            break
        error = inner
    said = error.__cause__ if isinstance(error.__cause__, OSError) else error
    return (said.strerror if isinstance(said, OSError) and said.strerror else str(said)).strip()

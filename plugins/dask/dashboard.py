"""The path under which a scheduler serves its dashboard, so that a link through a proxy leads to it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

from propfan.pluginmachinery.errors import PermanentError
from propfan.pluginmachinery.phases import LinkType, TaskLog

_FIRST_PAGE: Final = "/status"
"""Of the dashboard; links name it, and it lies below the prefix."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_NO_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NO_HOST: Final = re.compile(r"[ \\^`{|}%]|:[0-9]*[^0-9\]:][^\]]*$")


def prefix(links: Iterable[TaskLog]) -> str:
    """Path of the first link to a dashboard, without its first page; empty when there is none.

    Raises:
        PermanentError: that link is no URL; without a code.
    """
    for link in links:
        if link.link_type is LinkType.DASHBOARD:
            return _path(link.uri).removesuffix(_FIRST_PAGE)
    return ""


def _path(url: str) -> str:
    """The decoded path of a URL, by the rules of RFC 3986 where they can matter here."""
    if _CONTROL.search(url):
        raise _unreadable(url, "it has a control character")
    rest = url.partition("#")[0]
    scheme = _SCHEME.match(rest)
    if scheme is not None:
        rest = rest[scheme.end() :]
    path = rest.partition("?")[0]
    if path.startswith("//"):
        host, slash, path = path[2:].partition("/")
        path = slash + path
        if _NO_HOST.search(host.rpartition("@")[2]):
            raise _unreadable(url, f"'{host}' is no host")
    elif scheme is not None and not path.startswith("/"):
        return ""
    elif scheme is None and ":" in path.partition("/")[0]:
        raise _unreadable(url, "its first segment has a colon")
    if _NO_ESCAPE.search(path):
        raise _unreadable(url, "a percent sign in its path is not followed by two digits")
    return unquote(path)


def _unreadable(url: str, problem: str) -> PermanentError:
    return PermanentError("", f"the link to the dashboard {url!r} is no URL: {problem}")

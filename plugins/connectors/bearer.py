"""Calls that are authorised by a bearer token (RFC 6750), which may end before it should."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from propfan.pluginmachinery.connector import HttpClient, HttpResponse

TokenOf = Callable[[str], Awaitable[str]]
"""A token to send; another one than the argument, which is not taken any more, where there is one."""


async def asked(
    http: HttpClient,
    token_of: TokenOf,
    method: str,
    url: str,
    *,
    params: Mapping[str, str] | None = None,
    json: Any = None,
) -> HttpResponse:
    """The answer to a request; it is made once more with another token where the first one has ended.

    Raises:
        TaskError: as ``HttpClient.request`` and ``token_of``.
    """
    token = await token_of("")
    answer = await _asked_with(http, token, method, url, params, json)
    if answer.status == 401 and (another := await token_of(token)) != token:
        answer = await _asked_with(http, another, method, url, params, json)
    return answer


async def _asked_with(
    http: HttpClient, token: str, method: str, url: str, params: Mapping[str, str] | None, json: Any
) -> HttpResponse:
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    return await http.request(method, url, params=params, headers=headers, json=json)

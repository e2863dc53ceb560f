"""A small blocking client of an API server, for what tests prepare and look at."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlencode, urlsplit

import yaml

Object: TypeAlias = dict[str, Any]

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"  # takes JSON too
FIELD_MANAGER = "propfan-tests"


class ApiError(Exception):
    """The API server refused; ``status`` is HTTP's, ``reason`` and ``message`` are its own."""

    def __init__(self, request: str, status: int, body: bytes) -> None:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = {}
        self.status = status
        self.reason = str(answer.get("reason", ""))
        self.message = str(answer.get("message", "")) or body.decode(errors="replace")[:500]
        super().__init__(f"{request}: {status} {self.reason} {self.message}")


class Api:
    """Requests of one user, each on a connection of its own. Paths are those of the REST API."""

    def __init__(self, url: str, ca: Path, token: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.url = url
        self._host, self._port = parts.hostname, parts.port
        self._tls = ssl.create_default_context(cafile=str(ca))
        self._headers = {"Authorization": f"Bearer {token}"}
        self._resources: dict[str, Mapping[str, Object]] = {}

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = JSON, timeout_s: float = 60
    ) -> Any:
        """The decoded answer; text as it is when it is not JSON.

        Raises:
            ApiError: the answer is an error.
            OSError: there is none.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with self._send(method, path, body, content_type, timeout_s) as answer:
                raw = answer.read()
                if answer.status == HTTPStatus.TOO_MANY_REQUESTS and time.monotonic() < deadline:
                    time.sleep(1)  # the storage of a kind that is only just defined is not there yet
                    continue
                if answer.status >= HTTPStatus.BAD_REQUEST:
                    raise ApiError(f"{method} {path}", answer.status, raw)
                return json.loads(raw) if answer.headers.get_content_type() == JSON else raw.decode()

    def get(self, path: str) -> Object:
        answer: Object = self.request("GET", path)
        return answer

    def list(self, path: str, **query: str) -> Sequence[Object]:
        """The objects of a collection; the query is, say, ``labelSelector="a=b"``."""
        items: Sequence[Object] = self.get(_with_query(path, query))["items"]
        return items

    def create(self, manifest: Mapping[str, Any], *, namespace: str = "") -> Object:
        """Creates the object, in ``namespace`` unless it names its own."""
        answer: Object = self.request("POST", self.collection(manifest, namespace), manifest)
        return answer

    def apply(self, manifest: Mapping[str, Any], *, namespace: str = "") -> Object:
        """Creates the object or makes it what the manifest says (server-side apply)."""
        path = f"{self.collection(manifest, namespace)}/{manifest['metadata']['name']}"
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        answer: Object = self.request("PATCH", _with_query(path, query), manifest, content_type=APPLY)
        return answer

    def patch(self, path: str, patch: Mapping[str, Any]) -> Object:
        """A JSON merge patch."""
        answer: Object = self.request("PATCH", path, patch, content_type=MERGE_PATCH)
        return answer

    def delete(self, path: str, *, propagation: str = "Background") -> None:
        """Deletes the object; no error when it is gone."""
        try:
            self.request("DELETE", path, {"propagationPolicy": propagation})
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def collection(self, manifest: Mapping[str, Any], namespace: str = "") -> str:
        """The path of the collection that an object belongs to, as discovery tells."""
        version, kind = manifest["apiVersion"], manifest["kind"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if kind not in self._resources.get(root, {}):
            found = self.get(root)["resources"]
            self._resources[root] = {entry["kind"]: entry for entry in found if "/" not in entry["name"]}
        resource = self._resources[root][kind]
        if not resource["namespaced"]:
            return f"{root}/{resource['name']}"
        return f"{root}/namespaces/{manifest['metadata'].get('namespace', namespace)}/{resource['name']}"

    def watch(
        self, path: str, *, resource_version: str, timeout_s: float, **query: str
    ) -> Iterator[tuple[str, Object]]:
        """Types and objects of the changes of a collection, for at most ``timeout_s``."""
        whole_s = str(max(1, int(timeout_s)))
        all_query = {"watch": "true", "resourceVersion": resource_version, "timeoutSeconds": whole_s, **query}
        with self._send("GET", _with_query(path, all_query), None, JSON, timeout_s + 5) as answer:
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise ApiError(f"watch {path}", answer.status, answer.read())
            while line := answer.readline():
                event = json.loads(line)
                yield event["type"], event["object"]

    def await_objects(
        self, path: str, is_as_wanted: Callable[[Sequence[Object]], bool], *, timeout_s: float = 60, **query: str
    ) -> Sequence[Object]:
        """Watches a collection until its objects are as wanted, and returns them.

        Raises:
            TimeoutError: they are not in time; it tells what they are.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self.get(_with_query(path, query))
            present = {item["metadata"]["uid"]: item for item in answer["items"]}
            if is_as_wanted([*present.values()]):
                return [*present.values()]
            if (left_s := deadline - time.monotonic()) <= 0:
                states = {item["metadata"]["name"]: item.get("status") for item in present.values()}
                raise TimeoutError(f"{path} is not as wanted after {timeout_s:.0f} s: {json.dumps(states)}")
            since = answer["metadata"]["resourceVersion"]
            for change, item in self.watch(path, resource_version=since, timeout_s=left_s, **query):
                if change == "ERROR":
                    break
                if change == "DELETED":
                    present.pop(item["metadata"]["uid"], None)
                else:
                    present[item["metadata"]["uid"]] = item
                if is_as_wanted([*present.values()]):
                    return [*present.values()]

    def await_object(
        self, path: str, is_as_wanted: Callable[[Object], bool] = lambda _: True, *, timeout_s: float = 60
    ) -> Object:
        """Watches one object, that may not exist yet, until it is as wanted.

        Raises:
            TimeoutError: as ``await_objects``.
        """
        collection, _, name = path.rpartition("/")
        (found,) = self.await_objects(
            collection,
            lambda items: bool(items) and is_as_wanted(items[-1]),
            timeout_s=timeout_s,
            fieldSelector=f"metadata.name={name}",
        )
        return found

    def await_gone(self, path: str, *, timeout_s: float = 60) -> None:
        """Waits until an object no longer exists.

        Raises:
            TimeoutError: as ``await_objects``.
        """
        collection, _, name = path.rpartition("/")
        query = {"fieldSelector": f"metadata.name={name}"}
        self.await_objects(collection, lambda items: not items, timeout_s=timeout_s, **query)

    def _send(self, method: str, path: str, body: Any, content_type: str, timeout_s: float) -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection(self._host, self._port, context=self._tls, timeout=timeout_s)
        headers = self._headers | ({"Content-Type": content_type} if body is not None else {}) | {"Connection": "close"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return connection.getresponse()  # owns the socket, as the server closes after its answer


def read_manifests(path: Path) -> Sequence[Object]:
    """The objects in a YAML file. With libyaml where it is there: schemas of pods have 10000 lines and more."""
    with path.open(encoding="utf-8") as file:
        return [*yaml.load_all(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))]


def is_condition_true(item: Mapping[str, Any], kind: str) -> bool:
    """Whether the object's status has this condition, and it is True."""
    conditions = item.get("status", {}).get("conditions") or ()
    return any(entry["type"] == kind and entry["status"] == "True" for entry in conditions)


def _with_query(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path

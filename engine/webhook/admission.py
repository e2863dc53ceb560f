"""Answers to the API server's ``AdmissionReview`` of a pod."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog

from propfan.engine.cluster import TASK_ACTION, Cluster
from propfan.engine.webhook import injection, managers, mirrors
from propfan.engine.webhook.managers import Asker, SecretSource
from propfan.engine.webhook.mirrors import Mirrors, Task
from propfan.pluginmachinery import secrets
from propfan.pluginmachinery.errors import ApiError, DecodeError, PermanentError, PropfanError

logger = structlog.get_logger(__name__)

_REASONS: Final = {
    HTTPStatus.BAD_REQUEST: "BadRequest",
    HTTPStatus.FORBIDDEN: "Forbidden",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailable",
}


class _Owner(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    labels: Mapping[str, str] | None = None
    annotations: Mapping[str, str] | None = None
    owner_references: Sequence[_Owner] | None = None


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()


class _Asked(msgspec.Struct, frozen=True, rename="camel"):
    uid: str
    object: msgspec.Raw
    namespace: str = ""
    dry_run: bool | None = None


class _Review(msgspec.Struct, frozen=True):
    request: _Asked


_decode: Final = msgspec.json.Decoder(_Review).decode
_decode_pod: Final = msgspec.json.Decoder(_Pod).decode


class Admission:
    """Looks at pods, and asks the managers in order.

    What there is no secret for is refused with 403, as it may be made: the engine waits and says so. What can never
    be is refused with 400. While the cluster does not answer it is 503.
    """

    def __init__(self, cluster: Cluster, sources: Sequence[SecretSource], organization: str) -> None:
        self._cluster: Final = cluster
        self._sources: Final = sources
        self._organization: Final = organization
        self._mirrors: Final = Mirrors(cluster)

    async def review(self, body: bytes) -> bytes:
        """The answer as JSON.

        Raises:
            DecodeError: this is no AdmissionReview.
        """
        try:
            asked = _decode(body).request
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError("AdmissionReview", str(error)) from error
        try:
            patch = await self._patch(asked)
        except PermanentError as error:
            return _refusal(asked.uid, HTTPStatus.FORBIDDEN, error.message)
        except ApiError as error:
            logger.warning("secrets of a pod can not be read", namespace=asked.namespace, error=str(error))
            return _refusal(asked.uid, HTTPStatus.SERVICE_UNAVAILABLE, f"secrets can not be read now: {error}")
        except PropfanError as error:
            return _refusal(asked.uid, HTTPStatus.BAD_REQUEST, str(error))
        answer: dict[str, Any] = {"uid": asked.uid, "allowed": True}
        if patch:
            answer |= {"patchType": "JSONPatch", "patch": b64encode(msgspec.json.encode(patch)).decode()}
        return _answer(answer)

    async def _patch(self, asked: _Asked) -> Sequence[Mapping[str, Any]]:
        try:
            meta = _decode_pod(asked.object).metadata
            pod = msgspec.json.decode(asked.object)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise DecodeError("pod", str(error)) from error
        labels = meta.labels or {}
        if labels.get(secrets.INJECT_LABEL) != "true":
            return ()
        wanted = secrets.from_annotations(meta.annotations or {})
        if not wanted:
            return ()
        task = await self._task(asked.namespace, meta)
        asker = Asker(asked.namespace, labels, task)
        found = [await managers.first_found(self._sources, secret, asker) for secret in wanted]
        mirrored = {key: value for each in found for key, value in each.mirrored.items()}
        if mirrored and task is not None and not asked.dry_run:
            await self._mirrors.bring(task, mirrored)
        return injection.json_patch(pod, [each.injection for each in found])

    async def _task(self, namespace: str, meta: _Meta) -> Task | None:
        """The pod's owner, or, as operators own their pods, the one that its labels name."""
        for owner in meta.owner_references or ():
            if (owner.api_version, owner.kind) == (TASK_ACTION.api_version, TASK_ACTION.kind):
                return await mirrors.task_of(self._cluster, namespace, owner.name, owner.uid, self._organization)
        labels = meta.labels or {}
        if "run" not in labels or "action" not in labels:
            return None
        name = f"{labels['run']}-{labels['action']}"
        return await mirrors.task_of(self._cluster, namespace, name, "", self._organization)


def _refusal(uid: str, code: HTTPStatus, message: str) -> bytes:
    status = {"code": code.value, "reason": _REASONS[code], "message": message}
    return _answer({"uid": uid, "allowed": False, "status": status})


def _answer(response: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})

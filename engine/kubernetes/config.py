"""How a Kubernetes cluster is reached, and how hard it may be pressed."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta


class FieldValidation(enum.Enum):
    """What becomes of an object with fields that its kind does not have.

    See https://kubernetes.io/docs/reference/using-api/api-concepts/#field-validation.
    """

    STRICT = "Strict"
    WARN = "Warn"
    IGNORE = "Ignore"


class KubernetesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The ``kubernetes`` section.

    Attributes:
        kubeconfig: Path of a kubeconfig, or several as in ``KUBECONFIG``. Empty: those that ``KUBECONFIG``
            names; without it the service account when this runs in a pod, else ``~/.kube/config``.
        context: Of the kubeconfig; its current one when empty.
        in_cluster: Take the pod's service account, whatever else there is.
        user_agent: Told with every request; ``propfan/<version>`` when empty.
        qps: Requests per second on average; 0 is no limit. The API server's own priority and fairness
            remains, this keeps one engine from using it up.
        burst: Requests that may come at once after a quiet time.
        max_in_flight: Reads and writes of single objects that are under way at once. Those that wait go by
            namespace in turns.
        max_lists: Lists under way at once, beside the others.
        request_timeout_s: A request that takes longer has failed. 60 s is what the API server itself
            gives it (``--request-timeout``).
        watch_s: How long a watch lasts at most before it is renewed; at least half of it.
        field_validation: Of what is written; ``Warn`` logs each warning once.
        max_answer_bytes: Larger answers are not read. A page of a list that would be is asked for in
            smaller ones.
    """

    kubeconfig: str = ""
    context: str = ""
    in_cluster: bool = False
    user_agent: str = ""
    qps: Annotated[float, Meta(ge=0)] = 1000.0
    burst: Annotated[int, Meta(ge=1)] = 2000
    max_in_flight: Annotated[int, Meta(ge=1, le=10_000)] = 64
    max_lists: Annotated[int, Meta(ge=1, le=1000)] = 4
    request_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    watch_s: Annotated[float, Meta(ge=2, le=86_400)] = 600.0
    field_validation: FieldValidation = FieldValidation.WARN
    max_answer_bytes: Annotated[int, Meta(ge=2**20)] = 256 * 2**20

"""Every error that propfan raises.

::

    PropfanError
      ConfigError                 a configuration or an argument is wrong; field
        InUseError                another process works with the same data
        NameTooLongError          no name fits the bound; result
      PluginError                 refused at registration; plugin, field, rule
        ConnectorError            the same of a connector
      ConnectorNotFoundError      no connector runs the task type, or has the name; subject
      TaskError                   about one task; code (the string that clients see)
        PermanentError            it can never succeed; the engine does not retry
          PluginNotFoundError     no plugin runs its type; task_type
        TransientError            it may succeed later; retry_after_s
          UnansweredError         asked, and not answered in time: it may have been done
      DecodeError                 bytes from outside that are not what they should be
      StorageError                an object store did not do what was asked; path
        ObjectNotFoundError       there is no such object
        ObjectTooLargeError       larger than the limit; size_bytes, limit_bytes
      ApiError                    an answer of the cluster; status, reason
        NotFoundError
          KindNotServedError      nor is there such a kind
        AlreadyExistsError, ConflictError, InvalidError, BadRequestError, TooLargeError,
        ExpiredError, ThrottledError
        ForbiddenError
          QuotaExceededError
        UnavailableError
          UnauthorizedError
      InvalidTransitionError      a bug of the engine; state, event

Values are attributes, so that callers never parse messages. Each error survives pickle.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

BAD_TASK_SPECIFICATION: Final = "BadTaskSpecification"
METADATA_TOO_LARGE: Final = "MetadataTooLarge"
CORRUPTED_PLUGIN_STATE: Final = "CorruptedPluginState"
RUNTIME_FAILURE: Final = "RuntimeFailure"

ENGINE_STOPPED: Final = "EngineStopped"
"""Reason of a pod, and code of a failure, when the engine stopped the processes itself because it
was leaving: the attempt is launched again, and nobody is charged."""

NON_RETRYABLE_CODES: Final = frozenset({BAD_TASK_SPECIFICATION, METADATA_TOO_LARGE})
"""An error with one of these anywhere in its chain fails the task at once, as the user's."""


class PropfanError(Exception):
    """Base of all errors here."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(kind: type[PropfanError], args: tuple[Any, ...], values: dict[str, Any]) -> PropfanError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(values)
    return error


class ConfigError(PropfanError):
    """A configuration file, flag or argument is wrong.

    Attributes:
        field: Dotted path of the setting, or the name of the argument.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem


class InUseError(ConfigError):
    """Another process works with the same data; it may be worth a later try."""


class NameTooLongError(ConfigError):
    """Even the hash of a name is longer than the bound.

    Attributes:
        result: That hash, for a caller that can live with its length.
    """

    def __init__(self, result: str) -> None:
        super().__init__("", "max Length is too small, cannot create an encoded string that is so small")
        self.result = result


class PluginError(PropfanError):
    """A plugin is refused at registration.

    Attributes:
        plugin: Its id, or how it was found when it has none.
        field: The attribute at fault.
        rule: What that attribute must be.
    """

    def __init__(self, plugin: str, field: str, rule: str) -> None:
        super().__init__(f"plugin '{plugin}': {field}: {rule}")
        self.plugin = plugin
        self.field = field
        self.rule = rule


class ConnectorError(PluginError):
    """A connector is refused at registration; ``plugin`` is its name, or how it was found when it has none."""

    def __init__(self, connector: str, field: str, rule: str) -> None:
        super().__init__(connector, field, rule)
        self.args = (f"connector '{connector}': {field}: {rule}",)


class ConnectorNotFoundError(PropfanError):
    """There is no such connector.

    Attributes:
        subject: What was asked for, e.g. ``task type: spark and version: 1``.
    """

    def __init__(self, subject: str, hint: str = "") -> None:
        super().__init__(f"Cannot find connector for {subject}" + (f"; {hint}" if hint else ""))
        self.subject = subject


class TaskError(PropfanError):
    """Something about one task.

    Attributes:
        code: As in Flyte's ``core.ExecutionError``; empty when there is none.
        message: Without the code.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"[{code}] {message}" if code else message)
        self.code = code
        self.message = message


class PermanentError(TaskError):
    """The task can never succeed as it is; the engine does not retry."""


class TransientError(TaskError):
    """The task may succeed later.

    Attributes:
        retry_after_s: Earliest sensible next try in seconds; 0 leaves it to the engine.
        is_for_all: Whether all that is asked of the same endpoint shall wait for so long, or only this.
    """

    def __init__(self, code: str, message: str, retry_after_s: float = 0.0, *, is_for_all: bool = True) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s
        self.is_for_all = is_for_all


class UnansweredError(TransientError):
    """Somebody took a request and gave no answer in time; it may have been done all the same."""


class BadTaskSpecificationError(PermanentError):
    """The task template can not be run; always code ``BadTaskSpecification``."""

    def __init__(self, message: str) -> None:
        super().__init__(BAD_TASK_SPECIFICATION, message)


class PluginNotFoundError(PermanentError):
    """No plugin runs the task's type; always code ``PluginNotFound``."""

    def __init__(self, task_type: str) -> None:
        super().__init__(
            "PluginNotFound", f'no plugin registered for task type "{task_type}" and no default plugin available'
        )
        self.task_type = task_type


class DecodeError(PropfanError):
    """Bytes from outside are not what they should be.

    Attributes:
        what: What was being read, e.g. ``task template of flyte/r1-a0``.
        problem: What is wrong, and where.
    """

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what}: {problem}")
        self.what = what
        self.problem = problem


class StorageError(PropfanError):
    """An object store did not do what was asked; worth a later retry.

    Attributes:
        path: Full URI of the object.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class ObjectNotFoundError(StorageError):
    """There is no such object."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "no such object")


class ObjectTooLargeError(StorageError):
    """An object is larger than the limit; it was not read."""

    def __init__(self, path: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(path, f"object has {size_bytes} bytes, the limit is {limit_bytes}")
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class ApiError(PropfanError):
    """The cluster refused or failed a call.

    Attributes:
        status: HTTP status code.
        reason: ``metav1.StatusReason``, e.g. ``NotFound``.
        target: ``<kind> <namespace>/<name>`` of the object.
        retry_after_s: What the server asked for in seconds, else 0.
    """

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "InternalError"

    def __init__(self, target: str, problem: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{target}: {problem}")
        self.target = target
        self.problem = problem
        self.retry_after_s = retry_after_s


class NotFoundError(ApiError):
    status, reason = 404, "NotFound"


class KindNotServedError(NotFoundError):
    """The cluster does not know the kind: there can be no such object until its definition is installed."""


class AlreadyExistsError(ApiError):
    status, reason = 409, "AlreadyExists"


class ConflictError(ApiError):
    """The given resourceVersion or uid is not the current one."""

    status, reason = 409, "Conflict"


class InvalidError(ApiError):
    status, reason = 422, "Invalid"


class ForbiddenError(ApiError):
    """Quota, admission or access rules refuse the call."""

    status, reason = 403, "Forbidden"


class QuotaExceededError(ForbiddenError):
    """A ResourceQuota of the namespace is used up: there is room once something else has ended."""


class BadRequestError(ApiError):
    status, reason = 400, "BadRequest"


class TooLargeError(ApiError):
    status, reason = 413, "RequestEntityTooLarge"


class ExpiredError(ApiError):
    """The resourceVersion of a watch or list is too old: list again."""

    status, reason = 410, "Expired"


class ThrottledError(ApiError):
    status, reason = 429, "TooManyRequests"


class UnavailableError(ApiError):
    """The server failed or did not answer; a write may have been applied all the same."""

    status, reason = 503, "ServiceUnavailable"


class UnauthorizedError(UnavailableError):
    """The engine's own credentials are not accepted, also not once renewed. The call had no effect."""

    status, reason = 401, "Unauthorized"


class InvalidTransitionError(PropfanError):
    """The state machine has no move: a bug of the engine.

    Attributes:
        state: Name of the stage the task was in.
        event: Name of the event.
    """

    def __init__(self, task: str, state: str, event: str) -> None:
        super().__init__(f"task '{task}': no move from {state} on {event}")
        self.task = task
        self.state = state
        self.event = event


def code_of(error: BaseException) -> str:
    """The code in the chain of causes that decides: the first that forbids a retry, else the first; ``""`` for none."""
    codes, seen = [], set[int]()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:  # an error may be raised from itself
        seen.add(id(cause))
        if isinstance(cause, TaskError) and cause.code:
            codes.append(cause.code)
        cause = cause.__cause__
    return next((code for code in codes if code in NON_RETRYABLE_CODES), codes[0] if codes else "")

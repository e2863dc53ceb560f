"""Links to logs, dashboards and editors beside a task, made from templates in configuration and task.

A template holds placeholders such as ``{{ .podName }}``; ``propfan._speedups.links.VARIABLES`` names them. Case
does not matter, ``$`` may stand for the dot. Values are inserted literally; an empty value leaves its placeholder.
What depends on configuration and task alone is worked out once, as a ``LinkPlan``.
"""

from __future__ import annotations

import base64
import enum
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_plus

import msgspec

from propfan._speedups import links
from propfan.pluginmachinery.contexts import TaskContext, TaskExecutionId
from propfan.pluginmachinery.names import dns1123_subdomain
from propfan.pluginmachinery.phases import LinkType, MessageFormat, TaskLog

if TYPE_CHECKING:
    from flyteidl2.core import execution_pb2, tasks_pb2

DEBUGGER_LINK: Final = "vscode"
"""Link type that a debugger in the pod asks for; its links are always of type IDE."""

DEFAULT_KUBERNETES_TEMPLATE: Final = (
    "http://localhost:30082/#!/log/{{ .namespace }}/{{ .podName }}/pod?namespace={{ .namespace }}"
)

DEFAULT_AZURE_QUERY: Final = """\
let StartTime = datetime_add('hour', -1, datetime("{{.podRFC3339StartTime}}"));
let FinishTime = datetime_add('hour', 1, datetime("{{.podRFC3339FinishTime}}"));
ContainerLogV2
| where TimeGenerated between (StartTime .. FinishTime)
 and ContainerName == "{{.containerName}}"
 and PodName == "{{.podName}}"
 and PodNamespace == "{{.namespace}}\""""


class LinkTemplate(msgspec.Struct, frozen=True, rename="camel"):
    """One kind of link, a link for each template.

    Attributes:
        name: The link type by which a task asks for ``dynamic_template_uris``.
        message_format: Number of ``core.TaskLog.MessageFormat``.
        scheme: Accepted and without effect.
        link_type: ``external``, ``dashboard`` or ``ide`` in any case; anything else is ``external``.
        icon_uri: Accepted and without effect.
    """

    name: str = ""
    display_name: str = ""
    template_uris: Sequence[str] = ()
    dynamic_template_uris: Sequence[str] = ()
    message_format: MessageFormat = MessageFormat.UNKNOWN
    scheme: str = ""
    show_while_pending: bool = False
    hide_once_finished: bool = False
    link_type: str = ""
    icon_uri: str = ""


class AzureLinkTemplate(LinkTemplate, frozen=True, rename="camel"):
    """A link into Azure Log Analytics; only these take effect: ``displayName``, ``templateUris``, ``queryFormat``.

    Attributes:
        query_format: Template of the query; ``None`` is ``DEFAULT_AZURE_QUERY``, the empty one is empty.
    """

    query_format: str | None = None


class LogsConfig(msgspec.Struct, frozen=True, rename="kebab"):
    """Section ``plugins.logs``, also nested in the sections of some plugins.

    An empty template of a built-in link is made from the link's other settings.

    Attributes:
        dynamic_log_links: By link type; the templates of an entry are rendered when a task asks for the type.
    """

    cloudwatch_enabled: bool = False
    cloudwatch_region: str = ""
    cloudwatch_log_group: str = ""
    cloudwatch_template_uri: str = ""
    kubernetes_enabled: bool = True
    kubernetes_url: str = ""
    kubernetes_template_uri: str = DEFAULT_KUBERNETES_TEMPLATE
    stackdriver_enabled: bool = False
    gcp_project: str = ""
    stackdriver_logresourcename: str = ""
    stackdriver_template_uri: str = ""
    dynamic_log_links: Mapping[str, LinkTemplate] = {}
    templates: Sequence[LinkTemplate] = ()
    azure_log_templates: Sequence[AzureLinkTemplate] = ()


class PluginLogsConfig(LogsConfig, frozen=True, rename="kebab"):
    """The section as it is nested in plugins whose own logs are off unless configured."""

    kubernetes_enabled: bool = False
    kubernetes_template_uri: str = ""


NO_LOGS: Final = PluginLogsConfig()


class LogInput(msgspec.Struct, frozen=True):
    """Values of the variables; an empty one is not known.

    Attributes:
        container_id: As in a container status, e.g. ``containerd://1f2e``.
        extra_template_vars: A plugin's own variables and their values.
        enable_vscode: A debugger runs in the pod.
        agent_id: Older name of ``connector_id``.
    """

    host_name: str = ""
    pod_name: str = ""
    namespace: str = ""
    container_name: str = ""
    container_id: str = ""
    log_name: str = ""
    pod_rfc3339_start_time: str = ""
    pod_rfc3339_finish_time: str = ""
    pod_unix_start_time: int = 0
    pod_unix_finish_time: int = 0
    pod_uid: str = ""
    task_execution_id: TaskExecutionId | None = None
    extra_template_vars: tuple[tuple[str, str], ...] = ()
    enable_vscode: bool = False
    agent_id: str = ""
    connector_id: str = ""

    def values(self, used: int = links.ALL) -> list[str]:
        """By slot, a plugin's own after the others; of the task's identity only the slots in ``used``."""
        values = [""] * links.COUNT
        values[links.LOG_NAME] = self.log_name
        values[links.POD_NAME] = self.pod_name
        values[links.POD_UID] = self.pod_uid
        values[links.NAMESPACE] = self.namespace
        values[links.CONTAINER_NAME] = self.container_name
        values[links.CONTAINER_ID] = links.bare_container_id(self.container_id)
        values[links.HOSTNAME] = self.host_name
        values[links.AGENT_ID] = self.agent_id
        values[links.CONNECTOR_ID] = self.connector_id
        links.add_identity(values, used, self.task_execution_id, dns1123_subdomain)
        values[links.START_TIME] = self.pod_rfc3339_start_time
        values[links.FINISH_TIME] = self.pod_rfc3339_finish_time
        values[links.UNIX_START_TIME] = str(self.pod_unix_start_time)
        values[links.UNIX_FINISH_TIME] = str(self.pod_unix_finish_time)
        values += [value for _, value in self.extra_template_vars]
        return values


class _Style(enum.Enum):
    STATIC = "uri and name are templates"
    DYNAMIC = "the uri is a template that may name the task's config, the name is not"
    AZURE = "the uri is followed by an encoded query, which is a template; uri and name are not"


class _Link(msgspec.Struct, frozen=True):
    """One link of a task. ``details`` are the arguments of ``TaskLog`` after uri and name."""

    style: _Style
    uri: str
    name: str
    details: tuple[MessageFormat, bool, bool, LinkType, bool]
    query: str = ""
    task_config: tuple[tuple[str, str], ...] = ()
    only_with_debugger: bool = False


class LogLinks:
    """The links of one configuration. Plans are kept for the latest tasks."""

    _PLANS_KEPT: Final = 1024

    def __init__(self, config: LogsConfig) -> None:
        self._sources = tuple(_sources(config))
        self._plans: dict[tuple[bytes, bool], LinkPlan] = {}
        self.needs_environment = any(isinstance(s, LinkTemplate) and s.name == DEBUGGER_LINK for s in self._sources)
        """Whether a pod's environment can make a difference."""

    def plan(self, template: tasks_pb2.TaskTemplate | None, *, uses_config: bool = True) -> LinkPlan:
        """Links of one task; without ``uses_config`` neither its link types nor its config are looked at."""
        found = list(_task_links(template.metadata.log_links)) if template is not None else []
        config = template.config if template is not None and uses_config else {}
        requested = set(config["link_type"].split(",")) if "link_type" in config else set()
        for source in self._sources:
            if isinstance(source, _Link):
                found.append(source)
            elif source.name in requested or source.name == DEBUGGER_LINK:
                found += _dynamic_links(source, config, only_with_debugger=source.name not in requested)
        return LinkPlan(found)

    def plan_for(self, ctx: TaskContext, *, uses_config: bool = True) -> LinkPlan:
        """As ``plan`` for the context's task; made once for each serialised template."""
        key = (ctx.template_bytes, uses_config)
        plan = self._plans.get(key)
        if plan is None:
            plan = self.plan(ctx.template, uses_config=uses_config)
            if len(self._plans) >= self._PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = plan
        return plan


class LinkPlan:
    """The links of one task, to be rendered for each of its pods.

    Attributes:
        plain: What fills the places found beforehand; ``None`` when the templates nest braces.
        used: The slots that ``plain`` needs, as bits.
        needs_environment: Whether a debugger in the pod makes a difference.
    """

    __slots__ = ("_by_own_names", "_links", "needs_environment", "plain", "used")

    def __init__(self, found: Sequence[_Link]) -> None:
        self._links = tuple(found)
        self._by_own_names: dict[tuple[str, ...], tuple[links.PlainLinks | None, int]] = {}
        self.plain, self.used = _take_apart(self._links, ())
        self.needs_environment = any(link.only_with_debugger for link in self._links)

    def __bool__(self) -> bool:
        """Whether there are links."""
        return bool(self._links)

    def render(self, given: LogInput) -> tuple[TaskLog, ...]:
        """The links of one log, in the order in which they are shown."""
        if not self._links:
            return ()
        plain, used = self.plain, self.used
        own_names: tuple[str, ...] = ()
        if given.extra_template_vars:
            own_names = tuple([name for name, _ in given.extra_template_vars])
            if own_names not in self._by_own_names:
                self._by_own_names[own_names] = _take_apart(self._links, own_names)
            plain, used = self._by_own_names[own_names]
        if plain is not None and (rendered := plain.render(given.values(used), given.enable_vscode)) is not None:
            return rendered
        return self.substitute(given.values(), own_names, has_debugger=given.enable_vscode)

    def render_values(self, values: list[str], *, has_debugger: bool = False) -> tuple[TaskLog, ...]:
        """As ``render``, with the values by slot, of which none is a plugin's own."""
        if not self._links:
            return ()
        rendered = None if self.plain is None else self.plain.render(values, has_debugger)
        return self.substitute(values, has_debugger=has_debugger) if rendered is None else rendered

    def substitute(
        self, values: Sequence[str], own_names: Sequence[str] = (), *, has_debugger: bool
    ) -> tuple[TaskLog, ...]:
        """The definition: one variable after the other. ``values`` are by slot, and none is left out."""
        names = dict(enumerate(links.VARIABLES))
        own = {links.COUNT + i: name for i, name in enumerate(own_names)}
        order = {links.LOG_NAME: names.pop(links.LOG_NAME), **own, **names}
        pairs = [(_placeholder(name), values[slot]) for slot, name in order.items() if values[slot]]
        log_name = values[links.LOG_NAME]
        rendered = []
        for link in self._links:
            if link.only_with_debugger and not has_debugger:
                continue
            uri, name = link.uri, link.name + log_name
            if link.style is _Style.AZURE:
                uri += _encode_azure_query(_replace(link.query, pairs))
            else:
                uri = _replace(uri, pairs)
            if link.style is _Style.STATIC:
                name = _replace(link.name, pairs) + _replace(log_name, pairs)
            uri = _replace(uri, [(_config_placeholder(key), value) for key, value in link.task_config])
            rendered.append(TaskLog(uri, name, *link.details))
        return tuple(rendered)


def _sources(config: LogsConfig) -> Iterator[_Link | LinkTemplate]:
    """Links that every task has, and templates of those that a task asks for, in the order of their links."""
    pod = "{{ .podName }}"
    json_link = (MessageFormat.JSON, False, False, LinkType.EXTERNAL, True)
    if config.kubernetes_enabled:
        built_in = f"{config.kubernetes_url}/#!/log/{{{{ .namespace }}}}/{pod}/pod?namespace={{{{ .namespace }}}}"
        yield _Link(_Style.STATIC, config.kubernetes_template_uri or built_in, "Kubernetes Logs", json_link)
    if config.cloudwatch_enabled:
        built_in = (
            f"https://console.aws.amazon.com/cloudwatch/home?region={config.cloudwatch_region}"
            f"#logEventViewer:group={config.cloudwatch_log_group}"
            f";stream=var.log.containers.{pod}_{{{{ .namespace }}}}_{{{{ .containerName }}}}-{{{{ .containerId }}}}.log"
        )
        yield _Link(_Style.STATIC, config.cloudwatch_template_uri or built_in, "Cloudwatch Logs", json_link)
    if config.stackdriver_enabled:
        project = config.gcp_project
        built_in = (
            f"https://console.cloud.google.com/logs/viewer?project={project}"
            f"&angularJsUrl=%2Flogs%2Fviewer%3Fproject%3D{project}&resource={config.stackdriver_logresourcename}"
            f"&advancedFilter=resource.labels.pod_name%3D{pod}"
        )
        yield _Link(_Style.STATIC, config.stackdriver_template_uri or built_in, "Google Cloud Logs", json_link)
    for azure in config.azure_log_templates:
        query = DEFAULT_AZURE_QUERY if azure.query_format is None else azure.query_format
        details = (MessageFormat.JSON, False, False, LinkType.EXTERNAL, False)
        for uri in azure.template_uris:
            yield _Link(_Style.AZURE, uri, azure.display_name, details, query)
    for entry in config.templates:
        for uri in entry.template_uris:
            yield _Link(_Style.STATIC, uri, entry.display_name, _details(entry))
        if entry.dynamic_template_uris:
            yield entry
    for name, entry in sorted(config.dynamic_log_links.items()):
        yield msgspec.structs.replace(
            entry, name=name, dynamic_template_uris=entry.template_uris, message_format=MessageFormat.JSON
        )


def _details(
    entry: LinkTemplate, link_type: LinkType | None = None
) -> tuple[MessageFormat, bool, bool, LinkType, bool]:
    configured = _LINK_TYPES.get(entry.link_type.lower(), LinkType.EXTERNAL)
    return (
        entry.message_format,
        entry.show_while_pending,
        entry.hide_once_finished,
        configured if link_type is None else link_type,
        True,
    )


_MESSAGE_FORMATS: Final = {int(form): form for form in MessageFormat}
_LINK_TYPES: Final = {kind.name.lower(): kind for kind in LinkType}


def _task_links(declared: Iterable[execution_pb2.TaskLog]) -> Iterator[_Link]:
    for link in declared:
        details = (
            _MESSAGE_FORMATS.get(link.message_format, MessageFormat.UNKNOWN),
            False,
            False,
            LinkType.DASHBOARD,
            True,
        )
        yield _Link(_Style.STATIC, link.uri, link.name, details)


def _dynamic_links(entry: LinkTemplate, config: Mapping[str, str], *, only_with_debugger: bool) -> Iterator[_Link]:
    details = _details(entry, LinkType.IDE if entry.name == DEBUGGER_LINK else None)
    named: list[tuple[str, str]] = []
    for uri in entry.dynamic_template_uris:
        keys = [key for key in _CONFIG_KEY.findall(uri) if key in config]
        named += [(key, config[key]) for key in keys if config[key]]
        yield _Link(
            _Style.DYNAMIC,
            uri,
            entry.display_name,
            details,
            task_config=tuple(named),
            only_with_debugger=only_with_debugger,
        )


_SPACE: Final = r"[\t\n\f\r ]*"
_FOLDED: Final = {"k": "[kK\u212a]", "s": "[sS\u017f]"}
"""Letters that more than two characters are equal to when case does not matter (Unicode simple folding)."""


def _any_case(name: str) -> str:
    """A pattern for ``name`` in any case, as Go's ``(?i)`` matches it."""
    return "".join(
        _FOLDED.get(c.lower()) or (f"[{c.lower()}{c.upper()}]" if c.isascii() and c.isalpha() else re.escape(c))
        for c in name
    )


_KEY: Final = "[A-Za-z_\u017f\u212a]+"
_CONFIG: Final = rf".{_any_case('taskConfig')}[.$]"
_CONFIG_KEY: Final = re.compile(rf"\{{\{{{_SPACE}{_CONFIG}({_KEY}){_SPACE}\}}\}}")
_TOKEN: Final = re.compile(rf"\{{\{{{_SPACE}(?:[.$]([A-Za-z0-9_\u017f\u212a]+)|{_CONFIG}({_KEY})){_SPACE}\}}\}}")


def _placeholder(name: str) -> re.Pattern[str]:
    return re.compile(rf"\{{\{{{_SPACE}[.$]{_any_case(name)}{_SPACE}\}}\}}")


def _config_placeholder(key: str) -> re.Pattern[str]:
    return re.compile(rf"\{{\{{{_SPACE}{_CONFIG}{_any_case(key)}{_SPACE}\}}\}}")


def _replace(text: str, pairs: Iterable[tuple[re.Pattern[str], str]]) -> str:
    for pattern, value in pairs:
        text = pattern.sub(lambda _, value=value: value, text)  # type: ignore[misc]
    return text


def _encode_azure_query(query: str) -> str:
    """gzip, base64, URL-escaped: how the portal takes a query in a link. No time goes into the gzip header."""
    squeezer = zlib.compressobj(wbits=31)
    return quote_plus(base64.b64encode(squeezer.compress(query.encode()) + squeezer.flush()))


def _take_apart(found: Sequence[_Link], own_names: Sequence[str]) -> tuple[links.PlainLinks | None, int]:
    """The links with their gaps, and the slots used; ``None`` where filling gaps is not substitution."""
    slots = {name.casefold(): slot for slot, name in enumerate(links.VARIABLES) if slot}
    slots |= {name.casefold(): links.COUNT + i for i, name in reversed(list(enumerate(own_names)))}
    slots |= {links.VARIABLES[0].casefold(): links.LOG_NAME}
    if len({name.casefold() for name in own_names} - {"logname"}) < len(own_names):
        return None, links.ALL
    used = {links.LOG_NAME}
    plain = []
    for link in found:
        templates: list[links.Template] = []
        config = {key.casefold(): value for key, value in reversed(link.task_config)}
        for text, is_template in (
            (link.uri, link.style is not _Style.AZURE),
            (link.name, link.style is _Style.STATIC),
            (link.query, link.style is _Style.AZURE),
        ):
            template = _gaps(text, slots, config, used) if is_template else links.Template((text,), (), ())
            if template is None:
                return None, links.ALL
            templates.append(template)
        uri, name, query = templates
        is_azure = link.style is _Style.AZURE
        plain.append(
            links.PlainLink(
                uri,
                name,
                link.details,
                query=query if is_azure else None,
                encode=_encode_azure_query if is_azure else None,
                only_with_debugger=link.only_with_debugger,
            )
        )
    bits = sum(1 << slot for slot in used if slot < links.COUNT)
    return links.PlainLinks(plain, sorted(used), TaskLog), bits


def _gaps(text: str, slots: Mapping[str, int], config: Mapping[str, str], used: set[int]) -> links.Template | None:
    """``text`` taken apart; ``None`` when an inserted value could complete a placeholder.

    That takes two open braces outside any placeholder: values that hold a brace are kept away from gaps.
    """
    literals = [""]
    filled: list[int] = []
    placeholders: list[str] = []
    end = 0
    for match in _TOKEN.finditer(text):
        between = text[end : match.start()]
        if "{{" in between:
            return None
        literals[-1] += between
        end = match.end()
        slot = None if match[1] is None else slots.get(match[1].casefold())
        value = "" if match[2] is None else config.get(match[2].casefold(), "")
        if "{" in value:
            return None
        if slot is None:
            literals[-1] += value or match[0]
        else:
            used.add(slot)
            filled.append(slot)
            placeholders.append(match[0])
            literals.append("")
    if "{{" in text[end:]:
        return None
    literals[-1] += text[end:]
    return links.Template(literals, filled, placeholders)

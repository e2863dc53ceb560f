from __future__ import annotations

import base64
import zlib
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote_plus

import msgspec
import pytest
from flyteidl2.core import execution_pb2, tasks_pb2
from hypothesis import given
from hypothesis import strategies as st

from propfan._speedups import links
from propfan.pluginmachinery.config import decode_config
from propfan.pluginmachinery.contexts import (
    ExecutionId,
    NodeExecutionId,
    TaskExecutionId,
    TaskExecutionIdentifier,
    TaskId,
)
from propfan.pluginmachinery.errors import ConfigError
from propfan.pluginmachinery.loglinks import (
    DEFAULT_AZURE_QUERY,
    NO_LOGS,
    AzureLinkTemplate,
    LinkPlan,
    LinkTemplate,
    LogInput,
    LogLinks,
    LogsConfig,
)
from propfan.pluginmachinery.phases import LinkType, MessageFormat, TaskLog

IDENTITY = TaskExecutionId(
    "Gen_Name",
    "node-1",
    TaskExecutionIdentifier(
        TaskId("tp", "td", "t", "v1", "to"), NodeExecutionId("a0", ExecutionId("p", "d", "run", "o")), 0
    ),
)


def render(template: str, given_input: LogInput, **entry: Any) -> str:
    config = msgspec.structs.replace(NO_LOGS, templates=(LinkTemplate(template_uris=(template,), **entry),))
    return LogLinks(config).plan(None).render(given_input)[0].uri


@pytest.mark.parametrize("name", links.VARIABLES)
def test_each_variable_has_a_value(name: str) -> None:
    full = LogInput(
        host_name="h", pod_name="p", namespace="n", container_name="c", container_id="x://id", log_name="l",
        pod_rfc3339_start_time="s", pod_rfc3339_finish_time="f", pod_uid="u", task_execution_id=IDENTITY, agent_id="ag",
        connector_id="co",
    )  # fmt: skip
    rendered = render(f"<{{{{ .{name} }}}}>", full)
    assert "{" not in rendered
    assert len(rendered) > 2


@pytest.mark.parametrize("text", ["{{.podName}}", "{{$PODNAME}}", "{{\t.podname\n\f\r }}", "{{ .podName }}"])
def test_placeholder_is_found_in_every_form(text: str) -> None:
    assert render(text, LogInput(pod_name="p")) == "p"


@pytest.mark.parametrize("text", ["{{podName}}", "{ {.podName}}", "{{\v.podName}}", "{{ .pod Name }}", "{{ .nobody }}"])
def test_what_is_no_placeholder_stays(text: str) -> None:
    assert render(text, LogInput(pod_name="p")) == text


def test_empty_value_leaves_the_placeholder() -> None:
    assert render("{{ .podName }}/{{ .hostname }}", LogInput(pod_name="p")) == "p/{{ .hostname }}"


def test_zero_times_and_attempts_are_values() -> None:
    text = render("{{.podUnixStartTime}}-{{.taskRetryAttempt}}", LogInput(task_execution_id=IDENTITY))
    assert text == "0-0"


def test_run_is_unknown_without_the_whole_execution_id() -> None:
    partial = TaskExecutionId("g", "n", TaskExecutionIdentifier(None, NodeExecutionId("a0")))
    text = "{{.actionName}}{{.runName}}{{.nodeID}}{{.taskID}}"
    assert render(text, LogInput(task_execution_id=partial)) == "{{.actionName}}{{.runName}}n{{.taskID}}"


def test_value_may_bring_placeholders_of_later_variables_only() -> None:
    brought = LogInput(pod_name="{{ .namespace }}", namespace="{{ .podName }}")
    assert render("{{ .podName }}", brought) == "{{ .podName }}"


def test_values_are_literal() -> None:
    assert render("{{ .podName }}", LogInput(pod_name=r"\1$1${x}")) == r"\1$1${x}"


def test_plugins_own_variables_come_right_after_the_log_name() -> None:
    own = LogInput(
        log_name="{{.own}}", pod_name="pod", extra_template_vars=(("own", "{{.podName}}"), ("podName", "mine"))
    )
    assert render("{{.logName}} {{.podName}}", own) == "mine mine"


values = st.sampled_from(["", "p", "{", "{{", "}}", ".podUID", "{{ .podUID }}", "{{.own}}", "{{ .containerID", "$1"])
pieces = st.sampled_from(
    ["{", "{{", "}}", " ", ".podName", "x", "{{ .podName }}", "{{.PODUID}}", "{{$own}}", "{{ .nobody }}", "{{.containerID}}",
     "{{ .logName }}", "{{ .podUnixStartTime }}", "{{ .taskConfig.port }}", "{{ .taskConfig.PORT }}", "{{ .taskConfig$none }}"]
)  # fmt: skip


@given(
    st.lists(st.lists(pieces, max_size=5).map("".join), min_size=1, max_size=3),
    st.builds(
        LogInput,
        pod_name=values,
        pod_uid=values,
        log_name=values,
        container_id=values,
        enable_vscode=st.booleans(),
        extra_template_vars=st.lists(st.tuples(st.sampled_from(["own", "podUID", "a b"]), values), max_size=2).map(
            tuple
        ),
    ),
    st.sampled_from(["", "80", "{{ .podName }}"]),
)
def test_filling_gaps_is_substitution(templates: list[str], log_input: LogInput, port: str) -> None:
    entry = LinkTemplate("vscode", templates[0], tuple(templates), tuple(templates))
    azure = AzureLinkTemplate(display_name=templates[0], template_uris=("u",), query_format=templates[0])
    config = LogsConfig(templates=(entry,), azure_log_templates=(azure,))
    task = tasks_pb2.TaskTemplate(config={"port": port, "link_type": "vscode,other"})
    plan = LogLinks(config).plan(task)
    own = [name for name, _ in log_input.extra_template_vars]
    assert plan.render(log_input) == plan.substitute(log_input.values(), own, has_debugger=log_input.enable_vscode)


def test_default_is_the_kubernetes_dashboard_alone() -> None:
    rendered = LogLinks(LogsConfig()).plan(None).render(LogInput(pod_name="p", namespace="n"))
    uri = "http://localhost:30082/#!/log/n/p/pod?namespace=n"
    assert rendered == (TaskLog(uri, "Kubernetes Logs", MessageFormat.JSON, ready=True),)


def test_links_come_in_the_promised_order() -> None:
    config = LogsConfig(
        cloudwatch_enabled=True,
        cloudwatch_region="r",
        cloudwatch_log_group="g",
        kubernetes_template_uri="",
        kubernetes_url="http://k",
        stackdriver_enabled=True,
        gcp_project="proj",
        stackdriver_logresourcename="res",
        azure_log_templates=(AzureLinkTemplate(display_name="Azure", template_uris=("https://a?q=",)),),
        templates=(LinkTemplate(display_name="T {{ .logName }}", template_uris=("t1", "t2"), link_type="IdE"),),
        dynamic_log_links={
            "wandb": LinkTemplate(display_name="W", template_uris=("w",), link_type="dashboard"),
            "vscode": LinkTemplate(display_name="V {{.podName}}", template_uris=("v",), link_type="dashboard"),
        },
    )
    declared = execution_pb2.TaskLog(uri="{{.podName}}", name="mine", ready=False, message_format="CSV")
    task = tasks_pb2.TaskTemplate(config={"link_type": "wandb"}, metadata={"log_links": [declared]})
    given_input = LogInput(pod_name="p", namespace="n", container_name="c", container_id="d://i", log_name="-x",
                           enable_vscode=True)  # fmt: skip
    rendered = LogLinks(config).plan(task).render(given_input)
    assert [(log.name, log.link_type, log.ready, log.message_format.name) for log in rendered] == [
        ("mine-x", LinkType.DASHBOARD, True, "CSV"),
        ("Kubernetes Logs-x", LinkType.EXTERNAL, True, "JSON"),
        ("Cloudwatch Logs-x", LinkType.EXTERNAL, True, "JSON"),
        ("Google Cloud Logs-x", LinkType.EXTERNAL, True, "JSON"),
        ("Azure-x", LinkType.EXTERNAL, False, "JSON"),
        ("T -x-x", LinkType.IDE, True, "UNKNOWN"),
        ("T -x-x", LinkType.IDE, True, "UNKNOWN"),
        ("V {{.podName}}-x", LinkType.IDE, True, "JSON"),
        ("W-x", LinkType.DASHBOARD, True, "JSON"),
    ]
    uris = [log.uri for log in rendered]
    assert uris[0] == "p"
    assert uris[1] == "http://k/#!/log/n/p/pod?namespace=n"
    assert uris[2] == (
        "https://console.aws.amazon.com/cloudwatch/home?region=r#logEventViewer:group=g;stream=var.log.containers.p_n_c-i.log"
    )
    assert uris[3] == (
        "https://console.cloud.google.com/logs/viewer?project=proj&angularJsUrl=%2Flogs%2Fviewer%3Fproject%3Dproj"
        "&resource=res&advancedFilter=resource.labels.pod_name%3Dp"
    )


def test_azure_link_ends_in_the_packed_query() -> None:
    config = msgspec.structs.replace(
        NO_LOGS, azure_log_templates=(AzureLinkTemplate(display_name="{{.podName}}", template_uris=("{{.podName}}?",)),)
    )
    [log] = LogLinks(config).plan(None).render(LogInput(pod_name="p", namespace="n", container_name="c"))
    packed = log.uri.removeprefix("{{.podName}}?")
    query = zlib.decompress(base64.b64decode(unquote_plus(packed)), wbits=31).decode()
    filled = {"{{.podName}}": "p", "{{.namespace}}": "n", "{{.containerName}}": "c"}
    wanted = DEFAULT_AZURE_QUERY
    for placeholder, value in filled.items():
        wanted = wanted.replace(placeholder, value)
    assert query == wanted
    assert log.name == "{{.podName}}"


def dynamic(uris: tuple[str, ...], config: dict[str, str]) -> list[str]:
    entry = LinkTemplate("it", dynamic_template_uris=uris)
    plan = LogLinks(msgspec.structs.replace(NO_LOGS, templates=(entry,))).plan(tasks_pb2.TaskTemplate(config=config))
    return [log.uri for log in plan.render(LogInput(pod_name="p"))]


@pytest.mark.parametrize(("link_type", "shown"), [("it", 1), ("other,it,it", 1), ("it ", 0), ("IT", 0), ("", 0)])
def test_dynamic_link_is_shown_when_its_type_is_asked_for(link_type: str, shown: int) -> None:
    assert len(dynamic(("u",), {"link_type": link_type})) == shown


@pytest.mark.parametrize(
    ("uri", "filled"),
    [
        ("{{ .taskConfig.port }}", "80"),
        ("{{ $taskConfig$port }}", "80"),
        ("{{xTASKCONFIG.port}}", "80"),
        ("{{ .taskConfig.PORT }}", "{{ .taskConfig.PORT }}"),
        ("{{ .taskConfig.port }}{{ .taskConfig.PORT }}", "8080"),
        ("{{ .taskConfig.empty }}{{ .taskConfig.none }}", "{{ .taskConfig.empty }}{{ .taskConfig.none }}"),
        ("{{ .taskConfig.podName }}{{ .podName }}", "{{ .podName }}p"),
    ],
)
def test_dynamic_link_takes_values_of_the_tasks_config(uri: str, filled: str) -> None:
    config = {"link_type": "it", "port": "80", "empty": "", "podName": "{{ .podName }}"}
    assert dynamic((uri,), config) == [filled]


def test_dynamic_links_of_a_template_follow_its_static_ones() -> None:
    entries = (
        LinkTemplate("it", template_uris=("1",), dynamic_template_uris=("2",)),
        LinkTemplate(template_uris=("3",)),
    )
    plan = LogLinks(msgspec.structs.replace(NO_LOGS, templates=entries)).plan(
        tasks_pb2.TaskTemplate(config={"link_type": "it"})
    )
    assert [log.uri for log in plan.render(LogInput())] == ["1", "2", "3"]


def test_environment_is_needed_only_for_debugger_links() -> None:
    assert not LogLinks(LogsConfig(dynamic_log_links={"it": LinkTemplate()})).needs_environment
    assert LogLinks(LogsConfig(dynamic_log_links={"vscode": LinkTemplate()})).needs_environment


def test_config_keys_of_one_uri_serve_the_next() -> None:
    uris = ("{{ .taskConfig.port }}", "{{ .taskConfig.PORT }}")
    assert dynamic(uris, {"link_type": "it", "port": "80"}) == ["80", "80"]


def test_debugger_link_needs_a_debugger_or_the_request() -> None:
    config = msgspec.structs.replace(NO_LOGS, dynamic_log_links={"vscode": LinkTemplate(template_uris=("v",))})
    plan = LogLinks(config).plan(None)
    assert plan.render(LogInput()) == ()
    assert [log.link_type for log in plan.render(LogInput(enable_vscode=True))] == [LinkType.IDE]


def test_declared_link_of_an_unknown_format_is_shown() -> None:
    declared = execution_pb2.TaskLog.FromString(bytes([0x0A, 1]) + b"u" + bytes([0x18, 9]))
    [log] = LogLinks(NO_LOGS).plan(tasks_pb2.TaskTemplate(metadata={"log_links": [declared]})).render(LogInput())
    assert (log.uri, log.message_format) == ("u", MessageFormat.UNKNOWN)


def test_plan_without_config_keeps_only_declared_links() -> None:
    config = msgspec.structs.replace(NO_LOGS, dynamic_log_links={"it": LinkTemplate(template_uris=("v",))})
    task = tasks_pb2.TaskTemplate(config={"link_type": "it"}, metadata={"log_links": [{"uri": "u", "name": "n"}]})
    assert [log.uri for log in LogLinks(config).plan(task, uses_config=False).render(LogInput())] == ["u"]
    assert [log.uri for log in LogLinks(config).plan(task).render(LogInput())] == ["u", "v"]


def test_plan_is_made_once_for_each_template_and_forgotten_in_time() -> None:
    made = LogLinks(LogsConfig())

    def plan(template_bytes: bytes, *, uses_config: bool = True) -> LinkPlan:
        ctx: Any = SimpleNamespace(template_bytes=template_bytes, template=tasks_pb2.TaskTemplate())
        return made.plan_for(ctx, uses_config=uses_config)

    first = plan(b"first")
    assert plan(b"first") is first
    assert plan(b"first", uses_config=False) is not first
    for number in range(2000):
        plan(str(number).encode())
    assert plan(b"first") is not first


def test_config_is_read_by_the_keys_of_deployments() -> None:
    section = {
        "kubernetes-enabled": False,
        "gcp-project": "p",
        "templates": [{"displayName": "T", "templateUris": ["u"], "messageFormat": 2, "scheme": "Pod"}],
        "azure-log-templates": [{"queryFormat": "", "templateUris": ["u"]}],
        "dynamic-log-links": {"it": {"templateUris": ["u"], "linkType": "ide"}},
        "kubernetes-url": None,
    }
    config = decode_config(LogsConfig, section, "plugins.logs")
    assert config.templates == (LinkTemplate("", "T", ("u",), message_format=MessageFormat.JSON, scheme="Pod"),)
    assert config.azure_log_templates[0].query_format == ""
    assert config.dynamic_log_links == {"it": LinkTemplate(template_uris=("u",), link_type="ide")}


def test_unknown_key_is_refused_by_its_path() -> None:
    with pytest.raises(ConfigError, match=r"plugins\.logs\.templates\[0\]\.uri"):
        decode_config(LogsConfig, {"templates": [{"uri": "x"}]}, "plugins.logs")

"""Tests for plugins, to be used by their authors: contracts to subclass, contexts and ports in memory.

Needs pytest, which propfan itself does not install.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "propfan.pluginmachinery.testing.connector_contract",
    "propfan.pluginmachinery.testing.core_contract",
    "propfan.pluginmachinery.testing.kubernetes_contract",
)

from propfan.pluginmachinery.testing.builders import (  # noqa: E402 - asserts of what is imported are rewritten
    NOW,
    io_paths,
    literal_map,
    observed,
    task_metadata,
    task_template,
)
from propfan.pluginmachinery.testing.connector_contract import (  # noqa: E402
    ConnectorContract,
    JobStory,
    SyncConnectorContract,
)
from propfan.pluginmachinery.testing.connector_fakes import (  # noqa: E402
    FailingHttp,
    FakeHttp,
    HttpCall,
    connector_setup,
    connector_task,
    http_answer,
)
from propfan.pluginmachinery.testing.core_contract import CorePluginContract, Story  # noqa: E402
from propfan.pluginmachinery.testing.fakes import (  # noqa: E402
    FakeInputs,
    FakeKubernetes,
    FakeOutputs,
    FakeResources,
    FakeSecrets,
    FakeTaskContext,
    InMemoryStore,
    setup_context,
)
from propfan.pluginmachinery.testing.kubernetes_contract import KubernetesPluginContract, StatusSample  # noqa: E402
from propfan.pluginmachinery.testing.verdicts import problems_of_object, problems_of_verdict  # noqa: E402

__all__ = [
    "NOW",
    "ConnectorContract",
    "CorePluginContract",
    "FailingHttp",
    "FakeHttp",
    "FakeInputs",
    "FakeKubernetes",
    "FakeOutputs",
    "FakeResources",
    "FakeSecrets",
    "FakeTaskContext",
    "HttpCall",
    "InMemoryStore",
    "JobStory",
    "KubernetesPluginContract",
    "StatusSample",
    "Story",
    "SyncConnectorContract",
    "connector_setup",
    "connector_task",
    "http_answer",
    "io_paths",
    "literal_map",
    "observed",
    "problems_of_object",
    "problems_of_verdict",
    "setup_context",
    "task_metadata",
    "task_template",
]

"""The queue that a run names is a label of its actions."""

from __future__ import annotations

import pytest

from propfan.engine.control_plane import launching
from propfan.engine.resources.config import QUEUE_LABEL, QuotasSection
from tests.unit.engine.control_plane.messages import action_record, run_record, sleep_task


def labels_of(queue: str, **own: str) -> dict[str, str]:
    run = run_record(labels=own)
    run.spec.queue = queue
    made = launching.submission_of(run, action_record(run), sleep_task(), namespace="flyte")
    return dict(made.labels)


@pytest.mark.parametrize(("queue", "label"), [("gpu", "gpu"), ("big gpus!", "big-gpusx"), ("", None)])
def test_queue_of_the_run_is_a_label_that_quotas_read(queue: str, label: str | None) -> None:
    labels = labels_of(queue)
    assert labels.get(QUEUE_LABEL) == label
    assert QuotasSection().queue_of(labels) == (label or "default")


def test_own_labels_of_a_run_go_first() -> None:
    assert labels_of("gpu", **{QUEUE_LABEL: "mine", "team": "x"}) == {QUEUE_LABEL: "mine", "team": "x"}

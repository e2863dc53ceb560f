"""Whether the Spark operator of a cluster takes whole pods, which its versions before 2 do not."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import anyio
import structlog

from propfan.pluginmachinery.entries import CrdSchemas
from propfan.pluginmachinery.errors import ApiError, DecodeError
from propfan.plugins.spark.application import SPARK_APPLICATION

FIELD: Final = "spec.driver.template"

ASK_AGAIN_AFTER: Final = timedelta(minutes=1)
"""An operator may be upgraded while the engine runs; one request a minute is no load for an API server."""

logger = structlog.get_logger(__name__)


class PodTemplateSupport:
    """The answer, asked for when it is first needed and again from time to time.

    Args:
        timeout_s: For asking. Where nobody answers in time, the last answer counts, and at first that there is none.
    """

    def __init__(self, crds: CrdSchemas, *, timeout_s: float) -> None:
        self._crds = crds
        self._timeout_s = timeout_s
        self._answer: bool | None = None
        self._ask_again_at: datetime | None = None
        self._asking = anyio.Lock()

    async def is_given(self, now: datetime) -> bool:
        """Whether an application's pods may be given whole, as far as is known."""
        if self._ask_again_at is None or now >= self._ask_again_at:
            if self._answer is not None and self._asking.locked():
                return self._answer
            async with self._asking:
                if self._ask_again_at is None or now >= self._ask_again_at:
                    await self._ask()
                    self._ask_again_at = now + ASK_AGAIN_AFTER
        return self._answer is True

    async def _ask(self) -> None:
        try:
            with anyio.fail_after(self._timeout_s):
                self._answer = await self._crds.has_field(SPARK_APPLICATION, FIELD)
        except (TimeoutError, ApiError, DecodeError) as error:
            logger.warning(
                "can not see whether the Spark operator takes pod templates",
                error=str(error) or f"no answer within {self._timeout_s:g} s",
                takes_templates=self._answer is True,
            )

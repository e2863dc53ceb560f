"""OpenAI, and services that speak its API: chat completions, batches, and the files of batches.

``account`` is one key at one address, and what the errors of its calls mean. ``chat``, ``batches``, ``upload`` and
``download`` are the connectors; the last two move files in the background (``underway``).
"""

from propfan.plugins.connectors.extras import offered
from propfan.plugins.connectors.openai.batches import BatchConnector
from propfan.plugins.connectors.openai.chat import ChatConnector
from propfan.plugins.connectors.openai.download import DownloadConnector
from propfan.plugins.connectors.openai.upload import UploadConnector

__all__ = ["BatchConnector", "ChatConnector", "DownloadConnector", "UploadConnector", "connectors"]

connectors = offered("openai", "openai", ChatConnector, BatchConnector, UploadConnector, DownloadConnector)

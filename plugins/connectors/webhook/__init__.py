"""Tells a service of one's own about something: a task that is one HTTP request."""

from __future__ import annotations

from propfan.plugins.connectors.webhook.connector import WebhookConnector

connectors = (WebhookConnector,)

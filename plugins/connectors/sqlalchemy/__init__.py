"""Offers nothing yet."""

connectors = ()

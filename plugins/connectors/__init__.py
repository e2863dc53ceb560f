"""Native connectors: the services that propfan talks to itself, one folder each.

Each folder offers its connectors as ``connectors``, by an entry point of group ``propfan.connectors``, to the
connector service and to local runs. Libraries of vendors are extras of propfan: without them a folder offers
nothing. None knows the engine: what a connector needs of the outside is in its ``ConnectorSetup``.
"""

"""Clients of Flyte 2's services, which speak Connect: HTTP POST of protobuf.

``connect.py`` makes the calls, ``events.py`` hands events to ``EventsProxyService``, ``cache.py`` asks
``CacheService``, ``cache_key.py`` has the keys that Flyte's executor uses there too.
"""

"""The cluster behind a real API server: ``KubernetesCluster`` in ``cluster.py``, its settings in ``config.py``.

``objects.py`` has the paths of objects and decodes what comes back, ``watching.py`` the streams.
``transport.py`` sends requests: with what ``credentials.py`` gives, through the lanes of ``lanes.py``, over
the kept connections of ``exchanges.py`` or, for streams and proxies, aiohttp's; ``answers.py`` turns what the
server refuses into errors. Nothing is imported here: aiohttp takes half a second, which only those who use a
real cluster shall pay.
"""

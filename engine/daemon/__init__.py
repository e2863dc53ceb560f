"""``propfan serve``: the engine as a daemon, alone or as one of several replicas beside a cluster.

- ``daemon.py`` is the life of a replica, from its start to its drain.
- ``preflight.py`` checks at the start what would fail later: the API server, the CRD, the rights.
- ``membership.py`` joins and leaves a group of replicas by Leases (``leases.py``), and takes and gives shards;
  ``assignment.py`` says which, ``fence.py`` when to stop at once.
- ``metrics.py``, ``probes.py``, ``logs.py`` and ``tracing.py`` are what is seen from outside.

Nothing is imported here: only those who serve shall pay for it.
"""

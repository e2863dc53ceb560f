"""What every ``Cluster`` promises, in tests that know nothing but the protocol.

Subclass ``ClusterContract`` in a test module and give it the fixtures ``cluster``, ``namespace``
(of its own for each test, or unused names) and ``kind`` (a namespaced custom resource with a status
subresource that keeps unknown fields).
"""

from __future__ import annotations

from tests.contract.reads import ReadContract
from tests.contract.writes import WriteContract


class ClusterContract(WriteContract, ReadContract):
    """Set ``has_garbage_collector`` to ``False`` for a cluster beside which none runs."""

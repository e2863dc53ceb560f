"""This machine as a node of a Kubernetes cluster, whose pods are local processes.

``registration`` keeps the Node object and its Lease, ``objects`` words them, ``pods`` narrows a cluster to the
pods of one node, and ``serving`` is the life of it all. The cluster's own scheduler binds pods to the node;
``propfan.engine.processes`` runs them.
"""

"""Jobs of external services: what the engine does for tasks that run neither here nor on the cluster.

``machine`` decides, as pure steps, what a call's answer means. ``jobs`` holds the live jobs: it looks at
each when its time comes, in ``lanes`` that bound and pace the calls to every endpoint, and calls for a
round of a task only when there is news. ``quotas`` says who may have a job at all. The rounds drive it
through ``engine/reconcile/web_runner.py``.
"""

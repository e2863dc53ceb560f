"""Drives every live task: watches, rounds, timers, events and status writes.

- ``reconciler.py`` owns the live tasks: it feeds them from watches and timers, and lets workers
  take one task at a time through a *round*.
- ``rounds.py`` turns the goal of a task's stage into the event that comes of it.
- ``kubernetes_runner.py`` and ``core_runner.py`` do what a goal asks of a plugin; ``answers.py``
  checks what it says.
- ``publisher.py`` sends events in batches and writes status, without ever holding a round.
- ``watches.py`` and ``timers.py`` wait, ``limits.py`` reads a task's bounds from its template.
- ``live_task.py`` and ``task_context.py`` are what a round works on.
"""

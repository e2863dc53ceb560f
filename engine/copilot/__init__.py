"""The co-pilot of raw containers, for pods that run as processes: values become files before, files values after.

``python -m propfan.engine.copilot`` takes the arguments of Flyte's ``flyte-copilot``: ``download`` writes a task's
inputs into a folder (``downloads``), ``sidecar`` waits for SIGTERM, which says that the container has ended, and then
stores what it left in another folder as the task's outputs (``uploads``). ``values`` is how one value is written.
"""

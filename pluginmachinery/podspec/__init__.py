"""From a task template to a pod spec.

``build`` is the conversion, step by step, over ``schema`` (what a pod is made of), ``resources``,
``environment``, ``scheduling``, ``accelerators``, ``copilot`` and ``pod_templates``. ``plan`` does it once per
template and fills in each execution.
"""

"""One module per area, named like it.

``run(case_input)`` answers with the case's output in the form of the vectors (``data/README.md``). A
module may bring its own ``compare(case_input, expected, actual)`` with the signature of
``comparison.compare``.
"""

"""The pictures of docs/planning.md, drawn from what the planner returns: ``make pictures``.

``example``, ``urn`` and ``quality`` compute what is drawn and know nothing of matplotlib; ``make`` draws it.
"""

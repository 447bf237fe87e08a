"""The pictures of docs/concepts/mathematics.md and docs/how-to, drawn from what the planner returns: ``make pictures``.

``example``, ``urn`` and ``quality`` compute what is drawn and know nothing of matplotlib; ``tape``, ``laws`` and
``guides`` draw it, as ``make`` asks them to.
"""

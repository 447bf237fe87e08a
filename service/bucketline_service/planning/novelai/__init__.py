"""The ``novelai`` planner: NovelAI's published algorithm, exact."""

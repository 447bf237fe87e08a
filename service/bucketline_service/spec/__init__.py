"""The run spec: what users write, checked, with its defaults, and turned into what the planner takes."""

"""The run spec: the fields that users write, their validation and defaults, and the plan spec that follows."""

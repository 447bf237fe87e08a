"""Requests over HTTP: one attempt, repeated until a deadline, at one coordinator or several replicas of it."""

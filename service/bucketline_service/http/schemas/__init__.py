"""Requests and answers as pydantic models: what validates them, and what OpenAPI shows."""

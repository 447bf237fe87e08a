"""The models of requests and responses, by resource, for validation and OpenAPI."""

"""The dashboard: serves the files of a page for operators. Every number on the page comes from the REST API."""

from bucketline_service.dashboard.routes import routes

__all__ = ["routes"]

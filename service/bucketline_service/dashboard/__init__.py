"""Floor 3: the operators' page. Files and their headers alone; every number on it comes from the REST API."""

from bucketline_service.dashboard.routes import routes

__all__ = ["routes"]

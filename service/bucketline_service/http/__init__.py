"""The HTTP API: routes, models, authentication and problem documents over a coordinator."""

from bucketline_service.http.app import ApiSettings, create_app
from bucketline_service.http.auth import Tokens

__all__ = ["ApiSettings", "Tokens", "create_app"]

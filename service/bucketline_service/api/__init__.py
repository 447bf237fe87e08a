"""Floor 3: HTTP over the coordinator."""

from bucketline_service.api.app import ApiSettings, create_app
from bucketline_service.api.auth import Tokens

__all__ = ["ApiSettings", "Tokens", "create_app"]

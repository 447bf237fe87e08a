"""Charts of the REST API's responses: each function takes the JSON of a response and returns a ``plotly`` figure.

Needs only plotly, so that a notebook can use it with the client: ``pip install 'bucketline[figures]'``.
"""

from bucketline_service.charts.maps import aspects, sizes
from bucketline_service.charts.previews import comparison
from bucketline_service.charts.ranks import ranks
from bucketline_service.charts.stats import (
    aspect_error,
    bucket_crop_loss,
    buckets,
    crop_loss,
    lengths,
    pack_kinds,
    plan,
    pruned,
    tails,
)
from bucketline_service.charts.style import Theme, dress

__all__ = [
    "Theme",
    "aspect_error",
    "aspects",
    "bucket_crop_loss",
    "buckets",
    "comparison",
    "crop_loss",
    "dress",
    "lengths",
    "pack_kinds",
    "plan",
    "pruned",
    "ranks",
    "sizes",
    "tails",
]

"""Ladders of buckets, and the assignment of images to them."""

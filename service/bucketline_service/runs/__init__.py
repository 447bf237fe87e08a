"""Runs: put, listed and deleted; sessions, leases and delivery; what operators ask of them."""

"""``bucketline top``: what it asks for, its loop, and how it is drawn."""

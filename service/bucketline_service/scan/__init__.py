"""``bucketline scan``: a map of the sizes of images, read from their headers. It never writes to what it scans.

A scan has three passes: ``discovery`` enters the files in the record (a SQLite file beside the output), ``engines``
open those that the record does not have yet, and ``output`` writes the map. A scan that is stopped resumes from its
record."""

"""``bucketline scan``: the sizes of images, from their headers, as a map. What is scanned is only ever read.

Three passes: ``find`` notes what there is in the record (a SQLite file beside the output), ``engines`` open what the
record does not know yet, and ``output`` writes the map from it. A scan that is stopped goes on from its record."""

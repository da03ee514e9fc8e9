"""One file for each kind of annotation: it finds out whether a path is of its kind, and reads it."""

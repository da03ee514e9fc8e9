"""Questions about data and recipes that are answered by training: `compare.compare` and `advice.advise`."""

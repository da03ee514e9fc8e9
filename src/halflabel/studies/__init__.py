"""Questions about data and recipes that are answered by training: compare and advise."""

"""Show a result to others: `trained.train` gives a `Run`; then `card`, `push`, `export`, `demo`, and pictures."""

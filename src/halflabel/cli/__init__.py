"""What each command runs; the parser stands in `halflabel_cli`, which imports nothing heavy."""

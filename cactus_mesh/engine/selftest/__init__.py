"""The embedded self-test model: its files, and the script and text that it was made from (see README.md)."""

"""One file for each foreign layout of checkpoints."""

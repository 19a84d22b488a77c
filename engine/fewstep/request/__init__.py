"""What a user may ask for, checked, and made into the tensors of a run."""

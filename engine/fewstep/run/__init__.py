"""A plan and tensors become x: the loop, what runs it, and what is decoded from it. It knows no user."""

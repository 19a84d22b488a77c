"""The batcher: who shares a step with whom, and which model steps next."""

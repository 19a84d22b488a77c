"""The server's wire: OpenAI's image endpoints and ours, over the batcher."""

"""Who generates: the local model process, or a server that speaks OpenAI's API."""

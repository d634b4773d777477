"""A server under load for minutes on end: errors, leaks, memory, and whether answers stay plain vLLM's."""

"""What runs inside a vLLM worker. Everything here may import vLLM; nothing outside it (but plugin.py) does."""

"""Shape and size of candidate trees; a chain is the narrowest tree. Imports neither vLLM nor torch."""

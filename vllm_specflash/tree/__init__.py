"""Shape and size of candidate trees; a chain is the narrowest tree. Imports no vLLM."""

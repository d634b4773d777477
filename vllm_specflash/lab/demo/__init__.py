"""The demo targets: a small vision-language model that really sees, and the plain chat model under it.

`assemble.demo_target()` and `assemble.text_target()` give checkpoint folders that vLLM and transformers load;
every other module is part of the recipe that made the shipped weights (see weights/README.md).
"""

"""The commands of `specflash`, one module each with a function `run`."""

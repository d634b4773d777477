"""What a draft would gain on this machine, before one is trained."""

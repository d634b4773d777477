"""What runs inside a vLLM worker, whichever model runner it has; v1/ and v2/ are the two runners' own, and know nothing of each other.

Everything here may import vLLM. Outside it only plugin.py, lab/ and three modules of train/ do, the last inside their functions:
train/generate.py, train/self_prompts.py and train/startup.py, which start engines of their own.
"""

"""Measuring: plain vLLM, SpecFLASH and vLLM's own methods on the same prompts in the same run.

    method.py     what is compared           engine.py    one engine per process, driven from here
    prompts.py    what they are asked        probe.py     where a step's time goes, seen from the worker
    schedule.py   who runs when              records.py   what came back
    summary.py    medians, speed-ups         identity.py  whether the answers are the same
    document.py   the JSON file              tables.py, plots.py   for people
    footprint.py  KV and resident memory     doctor/      whether things fit together
    demo.py       `specflash demo`           predict/     what a draft would gain
"""

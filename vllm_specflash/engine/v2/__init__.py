"""SpecFLASH on vLLM's Model Runner V2: drafted, verified and compacted on the device, by tables that live there."""

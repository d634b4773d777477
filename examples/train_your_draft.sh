#!/usr/bin/env bash
# A draft for your own target. Every command goes on where it was interrupted.
#
#     examples/train_your_draft.sh TARGET PROMPTS.jsonl OUT [options of `specflash train`]
#
# PROMPTS.jsonl has one conversation per line, {"prompt": "...", "images": ["photo.jpg"]} or OpenAI's {"messages": [...]}.
# Several thousand prompts like the ones the target will meet make a good draft; the answers are the target's own.
set -euo pipefail
target=$1 prompts=$2 out=$3
shift 3

specflash data --target "$target" --prompts "$prompts" --out "$out/answers"
specflash train --target "$target" --data "$out/answers" --out "$out/draft" "$@"

echo "Serve it with:"
echo "  vllm serve $target --speculative-config '{\"method\": \"specflash\", \"model\": \"$out/draft\"}'"

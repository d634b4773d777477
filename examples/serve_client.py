"""A question about a picture to a server, with OpenAI's client; the answer is printed as it comes.

    vllm serve TARGET --speculative-config specflash
    python examples/serve_client.py photo.jpg "What is shown?"

The picture travels inside the request, as a data URL.
"""

import argparse
import base64
import mimetypes
from pathlib import Path

from openai import OpenAI

PICTURE = Path(__file__).parent / "data" / "pictures" / "scene-00.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default="http://localhost:8000/v1")
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("picture", nargs="?", type=Path, default=PICTURE)
    parser.add_argument("question", nargs="?", default="Describe this picture in detail.")
    args = parser.parse_args()

    client = OpenAI(base_url=args.base_url, api_key="none")
    content = [
        {"type": "image_url", "image_url": {"url": data_url(args.picture)}},
        {"type": "text", "text": args.question},
    ]
    answer = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": content}],
        temperature=0,
        max_tokens=args.max_tokens,
        stream=True,
    )
    for piece in answer:
        print(piece.choices[0].delta.content or "", end="", flush=True)
    print()


def data_url(path: Path) -> str:
    kind = mimetypes.guess_type(path)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


if __name__ == "__main__":
    main()

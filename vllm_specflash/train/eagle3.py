"""An EAGLE-3 draft (arXiv 2503.01840) in the shape that vLLM's own `eagle3` method serves: a peer to be measured against.

One Llama layer over [norm(emb(x_{t+1})); norm(f_t)], where f_t is the target's states of some layers through `fc`. It drafts one
token a forward, its own output being f of the next. It sees pictures by f alone: emb is that of the image token there, as where
vLLM serves it. Module names are those of the checkpoints that vLLM reads.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from vllm_specflash.draft.attention import rotate

# Token ids of a step: of the first one behind all positions, [B, L], and later behind the chains' last tokens, [B, P], of which the step
# before gave the outputs [B, P, D].
NextTokens = Callable[[int, Tensor | None], Tensor]


def at(x: Tensor, rows: Tensor) -> Tensor:
    """x [B, L, ...] at positions rows [B, P]: [B, P, ...]."""
    return x[torch.arange(len(x), device=x.device)[:, None], rows]


class Eagle3Attention(nn.Module):
    """Attention of chains that branch off positions of a sequence: a chain sees the sequence up to where it begins."""

    def __init__(self, text):
        super().__init__()
        size, heads, kv_heads = text.hidden_size, text.num_attention_heads, text.num_key_value_heads
        self.head_dim, self.groups = getattr(text, "head_dim", None) or size // heads, heads // kv_heads
        self.theta = text.rope_parameters["rope_theta"]
        self.q_proj = nn.Linear(2 * size, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(2 * size, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(2 * size, kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, size, bias=False)

    def forward(self, x: Tensor, rows: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        """Step s = len(keys) of the chains that begin at positions rows [B, P], whose keys and values are appended -> [B, P, D].

        x is [B, L, 2 D], of the whole sequence, in the first step, and [B, P, 2 D], of the chains, in later ones. The chain that begins at
        position t sees rows 0..t of the first step and its own of later ones.
        """
        own, positions = (x, rows + len(keys)) if keys else (at(x, rows), torch.arange(x.shape[1], device=x.device)[None])
        q, k, v = (proj(of).unflatten(-1, (-1, self.head_dim)) for proj, of in ((self.q_proj, own), (self.k_proj, x), (self.v_proj, x)))
        q = rotate(q, rows + len(keys), self.theta)
        keys.append(rotate(k, positions, self.theta).repeat_interleave(self.groups, 2))
        values.append(v.repeat_interleave(self.groups, 2))
        length = keys[0].shape[1]
        scores = torch.einsum("bthd,bshd->bhts", q, keys[0])
        hidden = torch.arange(length, device=x.device) > rows[:, :, None]
        scores = scores.masked_fill(hidden[:, None], -torch.inf)
        of_chain = [torch.einsum("bthd,bthd->bht", q, key).unsqueeze(-1) for key in keys[1:]]
        weights = (torch.cat([scores, *of_chain], -1) * self.head_dim**-0.5).float().softmax(-1).to(v.dtype)
        attended = torch.einsum("bhts,bshd->bthd", weights[..., :length], values[0])
        for place, value in enumerate(values[1:]):
            attended = attended + weights[..., length + place].transpose(1, 2).unsqueeze(-1) * value
        return self.o_proj(attended.flatten(-2))


class Eagle3Mlp(nn.Module):
    def __init__(self, text):
        super().__init__()
        self.gate_proj = nn.Linear(text.hidden_size, text.intermediate_size, bias=False)
        self.up_proj = nn.Linear(text.hidden_size, text.intermediate_size, bias=False)
        self.down_proj = nn.Linear(text.intermediate_size, text.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Eagle3Layer(nn.Module):
    def __init__(self, text):
        super().__init__()
        self.input_layernorm, self.hidden_norm, self.post_attention_layernorm = (
            nn.RMSNorm(text.hidden_size, eps=text.rms_norm_eps) for _ in range(3)
        )
        self.self_attn, self.mlp = Eagle3Attention(text), Eagle3Mlp(text)

    def forward(self, embeddings: Tensor, f: Tensor, rows: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        """A step of the attention's chains [B, P, D], from embeddings and f of the sequence or of the chains."""
        residual = f if keys else at(f, rows)
        attended = self.self_attn(torch.cat((self.input_layernorm(embeddings), self.hidden_norm(f)), -1), rows, keys, values)
        residual = residual + attended
        return residual + self.mlp(self.post_attention_layernorm(residual))


class Eagle3Draft(nn.Module):
    """
    Args:
        text: the target's text config.
        layers: of the target, whose inputs are the draft's features, as vLLM numbers them.
        d2t: [V_d] target token ids, ascending, that the draft can propose.
    """

    def __init__(self, text, layers: list[int], d2t: Tensor):
        super().__init__()
        self.text, self.layers = text, layers
        self.fc = nn.Linear(len(layers) * text.hidden_size, text.hidden_size, bias=False)
        self.midlayer = Eagle3Layer(text)
        self.norm = nn.RMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.register_buffer("d2t", d2t)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    def unroll(self, features: Tensor, embedding: Tensor, rows: Tensor, next_tokens: NextTokens, steps: int) -> Tensor:
        """Chains of `steps` tokens from positions rows [B, P]: features [B, L, n D], embedding [V, D] -> [B, P, steps, D].

        lm_head of [:, p, s] is the distribution of x_{t+2+s}, t = rows[:, p], as it is of offset s + 1 of a SpecFLASH draft.
        """
        f, keys, values, outputs, normed = self.fc(features), [], [], [], None
        for step in range(steps):
            f = self.midlayer(F.embedding(next_tokens(step, normed), embedding), f, rows, keys, values)
            normed = self.norm(f)
            outputs.append(normed)
        return torch.stack(outputs, 2)

    def taught(self, features: Tensor, input_ids: Tensor, embedding: Tensor, rows: Tensor, steps: int) -> Tensor:
        """`unroll` along a known sequence input_ids [B, L]; what lies beyond its end means nothing."""
        known = F.pad(input_ids, (0, steps))
        return self.unroll(
            features, embedding, rows, lambda step, _: at(known, rows + 1 + step) if step else known[:, 1 : input_ids.shape[1] + 1], steps
        )

    def chains(self, features: Tensor, input_ids: Tensor, embedding: Tensor, lm_head: Tensor, rows: Tensor, steps: int) -> Tensor:
        """What it drafts from positions rows [B, P], greedily: target ids [B, P, steps]; lm_head [V_d, D] is the draft's."""
        said: list[Tensor] = []

        def own(step: int, outputs: Tensor | None) -> Tensor:
            if outputs is None:
                return F.pad(input_ids[:, 1:], (0, 1))
            said.append(self.d2t[F.linear(outputs, lm_head).argmax(-1)])
            return said[-1]

        last = self.unroll(features, embedding, rows, own, steps)[:, :, -1]
        return torch.stack([*said, self.d2t[F.linear(last, lm_head).argmax(-1)]], -1)

    def save(self, folder: Path, lm_head: Tensor) -> None:
        """Write the checkpoint that vLLM's `eagle3` reads: its own rows of the target's lm_head, d2t as differences."""
        folder.mkdir(parents=True, exist_ok=True)
        text = self.text
        tensors = {name: value.to(torch.bfloat16) for name, value in self.state_dict().items() if name != "d2t"}
        tensors |= {"lm_head.weight": lm_head.to(torch.bfloat16), "d2t": self.d2t - torch.arange(len(self.d2t))}
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, folder / "model.safetensors")
        config = {
            "architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "num_hidden_layers": 1,
            "hidden_size": text.hidden_size, "intermediate_size": text.intermediate_size, "rms_norm_eps": text.rms_norm_eps,
            "num_attention_heads": text.num_attention_heads, "num_key_value_heads": text.num_key_value_heads,
            "head_dim": self.midlayer.self_attn.head_dim, "hidden_act": "silu", "tie_word_embeddings": False,
            "vocab_size": text.vocab_size, "draft_vocab_size": len(self.d2t), "rope_theta": self.midlayer.self_attn.theta,
            "max_position_embeddings": text.max_position_embeddings, "dtype": "bfloat16",
            # vLLM takes three features of a position unless it is told how many.
            "eagle_aux_hidden_state_layer_ids": self.layers, "num_aux_hidden_states": len(self.layers),
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

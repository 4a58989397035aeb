"""Which part of a network a tensor belongs to: attention, MLP, norm, convolution, embedding, head, or other.

Names decide first, by the words of ``FAMILIES``; what they leave open is told by shapes, and what shapes leave open is
'other'. A new family is one entry of ``FAMILIES``; a new name of a projection is one entry of ``ROLES``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from vadslim.analysis.headers import Entry

PARTS = ('attention', 'mlp', 'norm', 'conv', 'embedding', 'head', 'other')

#: family -> part -> the words (fnmatch, lower case) that a segment of a module's name is. All families are looked at
#: together; a name's first segment that is a word of any of them decides. Norms are asked for by their last segment.
FAMILIES: dict[str, dict[str, str]] = {
    'llama, mistral, qwen, gemma, phi': {'attention': 'self_attn', 'mlp': 'mlp', 'embedding': 'embed_tokens'},
    'mixtral, deepseek': {'mlp': 'block_sparse_moe experts shared_expert* router'},
    'gpt-2, falcon, bloom, gpt-neox, mpt': {
        'attention': 'attn attention self_attention selfattention encdecattention crossattention',
        'mlp': 'mlp ffn',
        'norm': 'ln_*',
        'embedding': 'wte wpe embed_in embed_positions',
    },
    'opt, bart, torch.nn.Transformer': {
        'attention': 'self_attn encoder_attn multihead_attn',
        'mlp': 'fc1 fc2 linear1 linear2',
    },
    'bert, vit (transformers)': {'attention': 'attention', 'mlp': 'intermediate output', 'embedding': '*embed*'},
    't5': {'mlp': 'densereludense', 'embedding': 'shared relative_attention_bias'},
    'timm: vit, swin': {'attention': 'attn *_attn', 'mlp': 'mlp', 'embedding': 'pos_embed* cls_token*'},
    'convnext': {'mlp': 'pwconv*'},
    'mmcv, mmdet, VAD': {
        'attention': 'attentions',
        'mlp': 'ffns *_mlp',
        'embedding': 'bev_embedding positional_encoding',
    },
    'any': {
        'attention': '*attention*',
        'mlp': 'feed_forward feedforward',
        'norm': '*norm *norms norm? *layernorm* bn bn? *_bn ln ln? batchnorm*',
        'embedding': '*embedding* *_embeds',
    },
}
#: what tells a head, outside of the layers: a word among the first two segments
HEADS = 'lm_head embed_out head classifier score fc *_branches'

#: projection -> the segments (fnmatch) that end its module's name, inside an attention or an MLP
ROLES: dict[str, dict[str, str]] = {
    'attention': {
        'q_proj': 'q_proj query q_lin to_q wq q',
        'k_proj': 'k_proj key k_lin to_k wk k',
        'v_proj': 'v_proj value v_lin to_v wv v value_proj',
        'o_proj': 'o_proj out_proj c_proj proj dense out_lin to_out wo o output_proj out',
        'qkv_proj': 'qkv qkv_proj c_attn query_key_value wqkv in_proj',
    },
    'mlp': {
        'gate_proj': 'gate_proj w1 wi_0',
        'up_proj': 'up_proj fc1 pwconv1 c_fc dense_h_to_4h w3 wi wi_1 lin1 linear1 intermediate',
        'down_proj': 'down_proj fc2 pwconv2 c_proj dense_4h_to_h w2 wo lin2 linear2 output',
        'gate_up_proj': 'gate_up_proj',
    },
}

#: names of tensors that no optimizer trains, by their last segment
_BUFFERS = {'running_mean', 'running_var', 'num_batches_tracked', 'inv_freq', 'original_inv_freq', 'position_ids',
            'token_type_ids', 'masked_bias', 'attn_mask', 'relative_position_index', 'relative_coords_table', 'g_idx',
            'qzeros', 'scales', 'absmax', 'quant_map', 'SCB', 'weight_format', 'e_score_correction_bias'}  # fmt: skip
_INTEGERS = {'BOOL', 'U8', 'I8', 'I16', 'U16', 'I32', 'U32', 'I64', 'U64'}


def is_buffer(name: str, entry: Entry) -> bool:
    """Whether a tensor is no parameter: a statistic, a mask, an index; integers are, unless they are packed weights."""
    last = name.rpartition('.')[2]
    if last in _BUFFERS or '.quant_state' in name:
        return True
    if last == 'bias' and len(entry.shape) == 4 and entry.shape[:2] == (1, 1):
        return True  # GPT-2's causal mask
    return entry.dtype in _INTEGERS and last not in ('weight', 'qweight')


@dataclass(frozen=True)
class PartTable:
    """The words that tell parts, ready to be asked.

    Args:
        families: as ``FAMILIES``.
        first: (pattern over the whole name, part) that are asked before all words: a user's own.
    """

    families: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: FAMILIES)
    first: tuple[tuple[str, str], ...] = ()
    _known: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for _, part in self.first:
            if part not in PARTS:
                raise ValueError(f'{part!r} is no part; there are {", ".join(PARTS)}')

    def of_segment(self, segment: str) -> str:
        """The part that a segment is a word of; '' if it is none. Norms are left out."""
        if segment not in self._known:
            self._known[segment] = self._look_up(segment, PARTS[:2] + PARTS[3:])
        return self._known[segment]

    def is_norm(self, segment: str) -> bool:
        """Whether a segment is a word of norms."""
        key = f'norm {segment}'
        if key not in self._known:
            self._known[key] = self._look_up(segment, ('norm',))
        return bool(self._known[key])

    def _look_up(self, segment: str, parts: Iterable[str]) -> str:
        low = segment.lower()
        for words in self.families.values():
            for part in parts:
                if any(fnmatchcase(low, word) for word in words.get(part, '').split()):
                    return part
        return ''

    def part_of(self, path: str, name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
        """The part of one tensor.

        Args:
            path: its name, without the name of the layer that it is in, if it is in one.
            name: all of its name.
            shapes: of the tensors of its module, by their last segments: ``{'weight': (8, 4), 'bias': (8,)}``.
        """
        for pattern, part in self.first:
            if fnmatchcase(name, pattern):
                return part
        segments = path.split('.')
        words = [segment for segment in segments[:-1] if not segment.isdecimal()]
        weight = shapes.get('weight')
        if 'running_mean' in shapes or (words and self.is_norm(words[-1])):
            return 'norm'
        if path == name and any(fnmatchcase(w.lower(), h) for w in words[:2] for h in HEADS.split()):
            return 'head'
        for word in [*words, segments[-1]]:
            part = self.of_segment(word)
            if part:
                return part
        if weight is not None and len(weight) == 1 and weight[0]:
            return 'norm'  # nothing else has a weight of one dimension
        if weight is not None and len(weight) > 2:
            return 'conv'
        return 'other'


def role_of(part: str, path: str) -> str:
    """Which projection of an attention or an MLP a tensor belongs to; '' if it is none of ``ROLES``.

    Args:
        part: its part.
        path: its name inside the layer.
    """
    words = [word for word in path.split('.') if not word.isdecimal() and word not in ('weight', 'bias')]
    if path.endswith(('in_proj_weight', 'in_proj_bias')):
        return 'qkv_proj'
    if part == 'mlp' and re.search(r'(^|\.)ffns\.\d+\.layers\.(0\.0|1)\.\w+$', path):  # mmcv's FFN
        return 'up_proj' if '.layers.0.0.' in path else 'down_proj'
    for word in reversed(words[-2:]):  # attention.output.dense, attention.self.query
        for role, names in ROLES.get(part, {}).items():
            if any(fnmatchcase(word.lower(), pattern) for pattern in names.split()):
                return role
    return ''

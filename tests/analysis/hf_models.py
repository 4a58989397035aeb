"""Models of ``transformers`` from configs, and what its files of them hold: the truth for shapes told by a config.

    python tests/analysis/hf_models.py    # writes tests/data/hf_shapes.json again; needs transformers 5

The JSON is what tests compare with where transformers is not installed: for each case its config, the shapes in the
file that ``save_pretrained`` writes, and the number of parameters.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from vadslim.analysis.headers import read_headers

FILE = Path(__file__).resolve().parents[1] / 'data' / 'hf_shapes.json'

#: all numbers differ, so that none is taken for another
_SMALL = {
    'vocab_size': 50, 'hidden_size': 24, 'intermediate_size': 40, 'num_hidden_layers': 1, 'num_attention_heads': 6,
    'num_key_value_heads': 2, 'pad_token_id': 0, 'bos_token_id': 1, 'eos_token_id': 2,
}  # fmt: skip
_WIDE = {**_SMALL, 'head_dim': 10}
_GPT = {'vocab_size': 50, 'n_embd': 24, 'n_layer': 1, 'n_head': 6, 'bos_token_id': 1, 'eos_token_id': 2}
_ENCODER = {**_SMALL, 'max_position_embeddings': 30, 'type_vocab_size': 3}
_OPT = {**_SMALL, 'ffn_dim': 40, 'max_position_embeddings': 30, 'word_embed_proj_dim': 24}
_VIT = {
    'hidden_size': 24, 'intermediate_size': 40, 'num_hidden_layers': 1, 'num_attention_heads': 6, 'image_size': 32,
    'patch_size': 8, 'num_channels': 3,
}  # fmt: skip
_LABELS = {'id2label': {'0': 'a', '1': 'b', '2': 'c', '3': 'd', '4': 'e'}}


def _case(kind: str, config: dict[str, Any], architecture: str, **changes: Any) -> dict[str, Any]:
    return {'model_type': kind, 'architectures': [architecture], **config, **changes}


CASES = {
    'llama': _case('llama', _SMALL, 'LlamaForCausalLM', num_hidden_layers=2),
    'llama, biases': _case('llama', _WIDE, 'LlamaForCausalLM', attention_bias=True, mlp_bias=True),
    'llama, tied': _case('llama', _WIDE, 'LlamaForCausalLM', tie_word_embeddings=True, num_key_value_heads=None),
    'llama, no head': _case('llama', _SMALL, 'LlamaModel'),
    'llama, classes': _case('llama', _SMALL, 'LlamaForSequenceClassification', **_LABELS),
    'mistral': _case('mistral', _SMALL, 'MistralForCausalLM', head_dim=None),
    'qwen2': _case('qwen2', _SMALL, 'Qwen2ForCausalLM'),
    'qwen2, tied': _case('qwen2', _SMALL, 'Qwen2ForCausalLM', tie_word_embeddings=True),
    'qwen3': _case('qwen3', _WIDE, 'Qwen3ForCausalLM'),
    'gemma': _case('gemma', _WIDE, 'GemmaForCausalLM'),
    'gemma2': _case('gemma2', _WIDE, 'Gemma2ForCausalLM'),
    'gemma3_text': _case('gemma3_text', _WIDE, 'Gemma3ForCausalLM'),
    'phi3': _case('phi3', _SMALL, 'Phi3ForCausalLM'),
    'granite': _case('granite', _SMALL, 'GraniteForCausalLM', mlp_bias=True),
    'smollm3': _case('smollm3', _SMALL, 'SmolLM3ForCausalLM'),
    'olmo': _case('olmo', _SMALL, 'OlmoForCausalLM'),
    'olmo2': _case('olmo2', _SMALL, 'Olmo2ForCausalLM'),
    'olmo3': _case('olmo3', _SMALL, 'Olmo3ForCausalLM'),
    'exaone4': _case('exaone4', _SMALL, 'Exaone4ForCausalLM'),
    'cohere': _case('cohere', _SMALL, 'CohereForCausalLM'),
    'cohere2': _case('cohere2', _SMALL, 'Cohere2ForCausalLM'),
    'seed_oss': _case('seed_oss', _WIDE, 'SeedOssForCausalLM', attention_out_bias=True),
    'mixtral': _case('mixtral', _SMALL, 'MixtralForCausalLM', num_local_experts=3),
    'qwen3_moe': _case('qwen3_moe', _WIDE, 'Qwen3MoeForCausalLM', num_experts=3, moe_intermediate_size=14),
    'phi': _case('phi', _SMALL, 'PhiForCausalLM', qk_layernorm=True),
    'gpt2': _case('gpt2', _GPT, 'GPT2LMHeadModel', n_positions=30, n_layer=2),
    'gpt2, no head': _case('gpt2', _GPT, 'GPT2Model', n_positions=30, n_inner=44),
    'gpt_neox': _case('gpt_neox', _SMALL, 'GPTNeoXForCausalLM'),
    'bloom': _case('bloom', _SMALL, 'BloomForCausalLM', n_layer=1, n_head=6),
    'opt': _case('opt', _OPT, 'OPTForCausalLM'),
    'opt, projected': _case(
        'opt', _OPT, 'OPTForCausalLM', word_embed_proj_dim=10, do_layer_norm_before=False, enable_bias=False
    ),
    'bert': _case('bert', _ENCODER, 'BertForMaskedLM'),
    'bert, no head': _case('bert', _ENCODER, 'BertModel'),
    'bert, classes': _case('bert', _ENCODER, 'BertForSequenceClassification', **_LABELS),
    'bert, pretraining': _case('bert', _ENCODER, 'BertForPreTraining'),
    'roberta': _case('roberta', _ENCODER, 'RobertaForMaskedLM'),
    'roberta, no head': _case('roberta', _ENCODER, 'RobertaModel'),
    'roberta, classes': _case('roberta', _ENCODER, 'RobertaForSequenceClassification', **_LABELS),
    'vit': _case('vit', _VIT, 'ViTForImageClassification', qkv_bias=False, **_LABELS),
    'vit, no head': _case('vit', _VIT, 'ViTModel'),
}


def build(config: dict[str, Any], device: str = 'cpu') -> Any:
    """The model of transformers."""
    import torch
    import transformers

    settings = transformers.CONFIG_MAPPING[config['model_type']].from_dict(dict(config))
    with torch.device(device):
        return getattr(transformers, config['architectures'][0])(settings)


def truth(config: dict[str, Any]) -> dict[str, Any]:
    """What transformers' file of this model holds, and how many parameters the model says it has."""
    model = build(config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        shapes = {name: list(entry.shape) for name, entry in read_headers(folder).tensors.items()}
    return {'config': config, 'shapes': dict(sorted(shapes.items())), 'parameters': model.num_parameters()}


if __name__ == '__main__':
    rows = [f'{json.dumps(name)}:{json.dumps(truth(case), separators=(",", ":"))}' for name, case in CASES.items()]
    FILE.write_text('{' + ',\n'.join(rows) + '}\n')

"""Templates of the parameters of Hugging Face models: a table, of which a further kind of model is one entry.

Names are those in the files that ``save_pretrained`` writes; where transformers 5 has others in memory (Mixtral, ViT,
GPT-NeoX), they are the old ones. Source: the models of github.com/huggingface/transformers 5.23.

A template has a line for each parameter, indented under the prefix of its block, if it has one:

- its name; ``{layers}`` in it, or in the prefix, runs over all numbers below that number;
- its sizes, sums and products of numbers;
- ``+X``: there is a bias of the first size as well, if X is not 0;
- ``?X``: it is there if X is not 0;
- ``@END,END``: it is there in classes whose name ends so; else in all of them;
- ``=NAME``: it is that one, if the embeddings are tied.

Numbers are words that ``NUMBERS`` and the family's own table explain, each by its keys in ``config.json``:

- ``key`` must be there; ``key/other`` are two names of it;
- ``key=X``: X where it is missing, also where it is null if X is no number; ``key=X|Y``: Y where it is null;
- ``=X`` is computed from words before it;
- ``?key`` is true or false; ``#key`` may be a table, whose entries are counted;
- a number is itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Numbers = Mapping[str, str | int]

NUMBERS: Numbers = {
    'vocab': 'vocab_size',
    'hidden': 'hidden_size',
    'layers': 'num_hidden_layers',
    'heads': 'num_attention_heads',
    'tied': '?tie_word_embeddings=0',
    'labels': '#id2label/num_labels=2',
}


@dataclass(frozen=True)
class Family:
    """How the parameters of one kind of model are named and shaped.

    Attributes:
        classes: what the names of its classes begin with: ``Llama`` of ``LlamaForCausalLM``.
        template: as above.
        numbers: what it has beside ``NUMBERS``, or in place of them.
        default: how the name of the class ends, where a config names none.
        base: prefix that the files of the class without a head (``LlamaModel``) leave away.
        only: key -> the one value of it that the template is right for; also where it is missing or null.
    """

    classes: str
    template: str
    numbers: Numbers
    default: str = 'ForCausalLM'
    base: str = 'model.'
    only: Mapping[str, object] = field(default_factory=dict)


# --- decoders as Llama is one ------------------------------------------------------------------------------

_LLAMA = """
model.embed_tokens.weight                vocab hidden
model.layers.{layers}:
    self_attn.q_proj.weight              heads*width hidden     +bias
    self_attn.k_proj.weight              kv_heads*width hidden  +bias
    self_attn.v_proj.weight              kv_heads*width hidden  +bias
    self_attn.o_proj.weight              hidden heads*width     +out_bias
    self_attn.q_norm.weight              q_norm                 ?q_norm
    self_attn.k_norm.weight              k_norm                 ?k_norm
    mlp.gate_proj.weight                 middle hidden          +mlp_bias
    mlp.up_proj.weight                   middle hidden          +mlp_bias
    mlp.down_proj.weight                 hidden middle          +mlp_bias
    input_layernorm.weight               hidden                 ?before
    post_attention_layernorm.weight      hidden                 ?between
    pre_feedforward_layernorm.weight     hidden                 ?before_mlp
    post_feedforward_layernorm.weight    hidden                 ?after_mlp
model.norm.weight                        hidden                 ?last
lm_head.weight                           vocab hidden           @ForCausalLM =model.embed_tokens.weight
score.weight                             labels hidden          @ForSequenceClassification
"""
_GATED = """\
    mlp.gate_proj.weight                 middle hidden          +mlp_bias
    mlp.up_proj.weight                   middle hidden          +mlp_bias
    mlp.down_proj.weight                 hidden middle          +mlp_bias
"""
_MIXTRAL = _LLAMA.replace(
    _GATED,
    """\
    block_sparse_moe.gate.weight                    experts hidden
    block_sparse_moe.experts.{experts}.w1.weight    middle hidden
    block_sparse_moe.experts.{experts}.w2.weight    hidden middle
    block_sparse_moe.experts.{experts}.w3.weight    middle hidden
""",
)
_QWEN3_MOE = _LLAMA.replace(
    _GATED,
    """\
    mlp.gate.weight                          experts hidden
    mlp.experts.{experts}.gate_proj.weight   middle hidden
    mlp.experts.{experts}.up_proj.weight     middle hidden
    mlp.experts.{experts}.down_proj.weight   hidden middle
""",
)
_PHI3 = """
model.embed_tokens.weight                vocab hidden
model.layers.{layers}:
    self_attn.qkv_proj.weight            heads*width+2*kv_heads*width hidden
    self_attn.o_proj.weight              hidden heads*width
    mlp.gate_up_proj.weight              2*middle hidden
    mlp.down_proj.weight                 hidden middle
    input_layernorm.weight               hidden
    post_attention_layernorm.weight      hidden
model.norm.weight                        hidden
lm_head.weight                           vocab hidden           @ForCausalLM =model.embed_tokens.weight
score.weight                             labels hidden          @ForSequenceClassification
"""

_GROUPED: Numbers = {'kv_heads': 'num_key_value_heads=heads', 'width': 'head_dim=hidden/heads'}
_DECODER: Numbers = {
    **_GROUPED,
    'middle': 'intermediate_size',
    **dict.fromkeys(('bias', 'out_bias', 'mlp_bias', 'q_norm', 'k_norm', 'before_mlp', 'after_mlp'), 0),
    **dict.fromkeys(('before', 'between', 'last'), 1),
}
_BIAS: Numbers = {'bias': '?attention_bias=0', 'out_bias': '?attention_bias=0'}
_TIED: Numbers = {'tied': '?tie_word_embeddings=1'}
_NORMED: Numbers = {'q_norm': '=width', 'k_norm': '=width'}
_FOUR_NORMS: Numbers = {'before_mlp': 1, 'after_mlp': 1}
_OLMO2: Numbers = {**_BIAS, 'q_norm': '=heads*width', 'k_norm': '=kv_heads*width', 'before': 0, 'after_mlp': 1}


def _kv(missing: int, null: str = '') -> Numbers:
    """What transformers takes for heads of keys and values that a config does not tell."""
    return {'kv_heads': f'num_key_value_heads={missing}' + (f'|{null}' if null else '')}


def _wide(missing: int) -> Numbers:
    return {'width': f'head_dim={missing}'}


def _llama(classes: str, numbers: Numbers, template: str = _LLAMA, only: Mapping[str, object] | None = None) -> Family:
    return Family(classes, template, {**_DECODER, **numbers}, only=only or {})


# --- others ------------------------------------------------------------------------------------------------

_PHI = """
model.embed_tokens.weight                vocab hidden
model.layers.{layers}:
    self_attn.q_proj.weight              heads*width hidden     +1
    self_attn.k_proj.weight              kv_heads*width hidden  +1
    self_attn.v_proj.weight              kv_heads*width hidden  +1
    self_attn.dense.weight               hidden heads*width     +1
    self_attn.q_layernorm.weight         hidden/heads           +1 ?qk_norm
    self_attn.k_layernorm.weight         hidden/heads           +1 ?qk_norm
    mlp.fc1.weight                       middle hidden          +1
    mlp.fc2.weight                       hidden middle          +1
    input_layernorm.weight               hidden                 +1
model.final_layernorm.weight             hidden                 +1
lm_head.weight                           vocab hidden           +1 @ForCausalLM =model.embed_tokens.weight
"""
_GPT2 = """
transformer.wte.weight                   vocab hidden
transformer.wpe.weight                   positions hidden
transformer.h.{layers}:
    ln_1.weight                          hidden                 +1
    attn.c_attn.weight                   hidden 3*hidden
    attn.c_attn.bias                     3*hidden
    attn.c_proj.weight                   hidden hidden          +1
    ln_2.weight                          hidden                 +1
    mlp.c_fc.weight                      hidden middle
    mlp.c_fc.bias                        middle
    mlp.c_proj.weight                    middle hidden
    mlp.c_proj.bias                      hidden
transformer.ln_f.weight                  hidden                 +1
lm_head.weight                           vocab hidden           @LMHeadModel =transformer.wte.weight
"""
_GPT_NEOX = """
gpt_neox.embed_in.weight                 vocab hidden
gpt_neox.layers.{layers}:
    input_layernorm.weight               hidden                 +1
    post_attention_layernorm.weight      hidden                 +1
    attention.query_key_value.weight     3*hidden hidden        +bias
    attention.dense.weight               hidden hidden          +bias
    mlp.dense_h_to_4h.weight             middle hidden          +1
    mlp.dense_4h_to_h.weight             hidden middle          +1
gpt_neox.final_layer_norm.weight         hidden                 +1
embed_out.weight                         vocab hidden           @ForCausalLM =gpt_neox.embed_in.weight
"""
_BLOOM = """
transformer.word_embeddings.weight       vocab hidden
transformer.word_embeddings_layernorm.weight  hidden            +1
transformer.h.{layers}:
    input_layernorm.weight               hidden                 +1
    self_attention.query_key_value.weight  3*hidden hidden      +1
    self_attention.dense.weight          hidden hidden          +1
    post_attention_layernorm.weight      hidden                 +1
    mlp.dense_h_to_4h.weight             4*hidden hidden        +1
    mlp.dense_4h_to_h.weight             hidden 4*hidden        +1
transformer.ln_f.weight                  hidden                 +1
lm_head.weight                           vocab hidden           @ForCausalLM =transformer.word_embeddings.weight
"""
_OPT = """
model.decoder.embed_tokens.weight        vocab word
model.decoder.embed_positions.weight     positions+2 hidden
model.decoder.project_in.weight          hidden word            ?word-hidden
model.decoder.project_out.weight         word hidden            ?word-hidden
model.decoder.layers.{layers}:
    self_attn.q_proj.weight              hidden hidden          +bias
    self_attn.k_proj.weight              hidden hidden          +bias
    self_attn.v_proj.weight              hidden hidden          +bias
    self_attn.out_proj.weight            hidden hidden          +bias
    self_attn_layer_norm.weight          hidden                 +1 ?affine
    fc1.weight                           middle hidden          +bias
    fc2.weight                           hidden middle          +bias
    final_layer_norm.weight              hidden                 +1 ?affine
model.decoder.final_layer_norm.weight    hidden                 +1 ?before*affine-before*affine*no_last
lm_head.weight                           vocab word             @ForCausalLM =model.decoder.embed_tokens.weight
"""
_ENCODER = """
bert.embeddings.word_embeddings.weight   vocab hidden
bert.embeddings.position_embeddings.weight    positions hidden
bert.embeddings.token_type_embeddings.weight  types hidden
bert.embeddings.LayerNorm.weight         hidden                 +1
bert.encoder.layer.{layers}:
    attention.self.query.weight          hidden hidden          +1
    attention.self.key.weight            hidden hidden          +1
    attention.self.value.weight          hidden hidden          +1
    attention.output.dense.weight        hidden hidden          +1
    attention.output.LayerNorm.weight    hidden                 +1
    intermediate.dense.weight            middle hidden          +1
    output.dense.weight                  hidden middle          +1
    output.LayerNorm.weight              hidden                 +1
"""
_BERT = (
    _ENCODER
    + """
bert.pooler.dense.weight                 hidden hidden  +1      @Model,ForSequenceClassification,ForPreTraining
cls.predictions.bias                     vocab                  @ForMaskedLM,ForPreTraining
cls.predictions.transform.dense.weight   hidden hidden  +1      @ForMaskedLM,ForPreTraining
cls.predictions.transform.LayerNorm.weight  hidden      +1      @ForMaskedLM,ForPreTraining
cls.predictions.decoder.weight  vocab hidden  @ForMaskedLM,ForPreTraining =bert.embeddings.word_embeddings.weight
cls.predictions.decoder.bias             vocab                  @ForMaskedLM,ForPreTraining =cls.predictions.bias
cls.seq_relationship.weight              2 hidden       +1      @ForPreTraining
classifier.weight                        labels hidden  +1      @ForSequenceClassification
"""
)
_ROBERTA = (
    _ENCODER.replace('bert.', 'roberta.')
    + """
roberta.pooler.dense.weight              hidden hidden  +1      @Model
lm_head.bias                             vocab                  @ForMaskedLM
lm_head.dense.weight                     hidden hidden  +1      @ForMaskedLM
lm_head.layer_norm.weight                hidden         +1      @ForMaskedLM
lm_head.decoder.weight                   vocab hidden           @ForMaskedLM =roberta.embeddings.word_embeddings.weight
lm_head.decoder.bias                     vocab                  @ForMaskedLM =lm_head.bias
classifier.dense.weight                  hidden hidden  +1      @ForSequenceClassification
classifier.out_proj.weight               labels hidden  +1      @ForSequenceClassification
"""
)
_VIT = """
vit.embeddings.cls_token                 1 1 hidden
vit.embeddings.position_embeddings       1 size/patch*size/patch+1 hidden
vit.embeddings.patch_embeddings.projection.weight  hidden channels patch patch  +1
vit.encoder.layer.{layers}:
    attention.attention.query.weight     heads*width hidden     +bias
    attention.attention.key.weight       heads*width hidden     +bias
    attention.attention.value.weight     heads*width hidden     +bias
    attention.output.dense.weight        hidden heads*width     +1
    intermediate.dense.weight            middle hidden          +1
    output.dense.weight                  hidden middle          +1
    layernorm_before.weight              hidden                 +1
    layernorm_after.weight               hidden                 +1
vit.layernorm.weight                     hidden                 +1
vit.pooler.dense.weight                  pooled hidden  +1      @Model
classifier.weight                        labels hidden  +1      @ForImageClassification
"""
_SPLIT: Numbers = {'width': '=hidden/heads'}  # which must be a whole number, though no shape tells it
_BERT_NUMBERS: Numbers = {
    **_SPLIT,
    'middle': 'intermediate_size',
    'positions': 'max_position_embeddings',
    'types': 'type_vocab_size=2',
    **_TIED,
}
_GPT_NUMBERS: Numbers = {
    'hidden': 'n_embd/hidden_size',
    'layers': 'n_layer/num_hidden_layers',
    'heads': 'n_head/num_attention_heads',
    **_SPLIT,
    **_TIED,
}
_NO_CROSS = {'add_cross_attention': False}

#: model_type -> its parameters
FAMILIES = {
    'llama': _llama('Llama', {**_BIAS, 'mlp_bias': '?mlp_bias=0'}),
    'mistral': _llama('Mistral', _kv(8, 'heads')),
    'qwen2': _llama('Qwen2', {**_kv(32, 'heads'), 'bias': 1}),
    'qwen3': _llama('Qwen3', {**_kv(32, 'heads'), **_wide(128), **_BIAS, **_NORMED}),
    'gemma': _llama('Gemma', {**_kv(16), **_wide(256), **_BIAS, **_TIED}),
    'gemma2': _llama('Gemma2', {**_kv(4), **_wide(256), **_BIAS, **_TIED, **_FOUR_NORMS}),
    'gemma3_text': _llama('Gemma3', {**_kv(4), **_wide(256), **_BIAS, **_TIED, **_FOUR_NORMS, **_NORMED}),
    'granite': _llama('Granite', {**_BIAS, 'mlp_bias': '?mlp_bias=0'}),
    'smollm3': _llama('SmolLM3', {**_kv(4, 'heads'), **_BIAS, 'mlp_bias': '?mlp_bias=0', **_TIED}),
    'olmo': _llama('Olmo', {**_BIAS, 'before': 0, 'between': 0, 'last': 0}),
    'olmo2': _llama('Olmo2', _OLMO2),
    'olmo3': _llama('Olmo3', _OLMO2),
    'exaone4': _llama('Exaone4', {**_kv(32), **_NORMED, 'before': 0, 'after_mlp': 1}),
    'cohere': _llama('Cohere', {**_BIAS, **_TIED, 'between': 0}, only={'use_qk_norm': False}),
    'cohere2': _llama('Cohere2', {**_BIAS, **_TIED, 'between': 0}),
    'seed_oss': _llama(
        'SeedOss',
        {
            **_kv(8, 'heads'),
            **_wide(128),
            'bias': '?attention_bias=1',
            'out_bias': '?attention_out_bias=0',
            'mlp_bias': '?mlp_bias=0',
        },
    ),
    'mixtral': _llama('Mixtral', {**_kv(8, 'heads'), 'experts': 'num_local_experts/num_experts=8'}, _MIXTRAL),
    'qwen3_moe': _llama(
        'Qwen3Moe',
        {
            **_kv(4),
            **_BIAS,
            **_NORMED,
            'middle': 'moe_intermediate_size=768',
            'experts': 'num_experts/num_local_experts=128',
        },
        _QWEN3_MOE,
        {'decoder_sparse_step': 1, 'mlp_only_layers': []},
    ),
    'phi3': _llama('Phi3', {}, _PHI3),
    'phi': Family('Phi', _PHI, {**_GROUPED, 'middle': 'intermediate_size', 'qk_norm': '?qk_layernorm=0'}),
    'gpt2': Family(
        'GPT2',
        _GPT2,
        {**_GPT_NUMBERS, 'middle': 'n_inner=4*hidden', 'positions': 'n_positions/max_position_embeddings=1024'},
        'LMHeadModel',
        'transformer.',
        _NO_CROSS,
    ),
    'gpt_neox': Family(
        'GPTNeoX', _GPT_NEOX, {**_SPLIT, 'middle': 'intermediate_size', 'bias': '?attention_bias=1'}, base='gpt_neox.'
    ),
    'bloom': Family('Bloom', _BLOOM, {**_GPT_NUMBERS, 'hidden': 'n_embed/hidden_size'}, base='transformer.'),
    'opt': Family(
        'OPT',
        _OPT,
        {
            **_SPLIT,
            'middle': 'ffn_dim',
            'word': 'word_embed_proj_dim=hidden',
            'positions': 'max_position_embeddings',
            'bias': '?enable_bias=1',
            'affine': '?layer_norm_elementwise_affine=1',
            'before': '?do_layer_norm_before=1',
            'no_last': '?_remove_final_layer_norm=0',
            **_TIED,
        },
    ),
    'bert': Family('Bert', _BERT, _BERT_NUMBERS, 'ForMaskedLM', 'bert.', _NO_CROSS),
    'roberta': Family('Roberta', _ROBERTA, _BERT_NUMBERS, 'ForMaskedLM', 'roberta.', _NO_CROSS),
    'vit': Family(
        'ViT',
        _VIT,
        {
            'vocab': 0,
            'width': 'head_dim=hidden/heads',
            'middle': 'intermediate_size',
            'size': 'image_size=224',
            'patch': 'patch_size=16',
            'channels': 'num_channels=3',
            'bias': '?qkv_bias=1',
            'pooled': 'pooler_output_size=hidden',
        },
        'ForImageClassification',
        'vit.',
    ),
}

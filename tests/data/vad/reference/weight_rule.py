"""Deterministic, storage-free weights for parity tests.

Every state_dict entry gets values that depend ONLY on its name and shape:

    z = numpy.random.Generator(numpy.random.PCG64(zlib.crc32(name.encode()))) \
            .standard_normal(shape)            # drawn in float64, cast to float32 at the end

and a scale chosen from the (name, shape, set of sibling names):

    *.num_batches_tracked                        -> 0
    code_weights / map_code_weights              -> LEFT UNTOUCHED (constants of the head)
    *.running_mean                               -> 0.1*z
    *.running_var                                -> 1 + 0.1*|z|
    BN weight (sibling running_var exists)       -> 1 + 0.1*z
    BN bias                                      -> 0.05*z
    LayerNorm weight (1-D '*.weight', no BN)     -> 1 + 0.05*z
    sampling_offsets.bias                        -> 1.0*z       (pixels; spreads the sampling points)
    last bias of ego_fut_decoder                 -> 0.05*z + (1.5 at even, 3.0 at odd indices): the plan moves on
    any other bias (*.bias, *.in_proj_bias)      -> 0.05*z
    embeddings (see EMBED)                       -> 0.5*z, but 1.5*z for the object/map/motion/ego queries (QEMB)
                                                    and 0.3*z for map_pts_embedding (compact polylines)
    reference_points / map_reference_points weight -> (3/sqrt(fan_in))*z  (spreads the references)
    last layer of cls/map_cls/traj_cls branches,
    and of ego_fut_decoder                       -> (2/sqrt(fan_in))*z
    out_proj / output_proj weight (attention)    -> (0.5/sqrt(fan_in))*z (keeps the queries diverse)
    every other weight with ndim>=2              -> z/sqrt(fan_in), fan_in = prod(shape[1:])
"""

import math
import re
import zlib

import numpy as np
import torch

EMBED = re.compile(
    r'(bev_embedding|query_embedding|map_query_embedding|map_instance_embedding|'
    r'map_pts_embedding|motion_mode_query|ego_query|row_embed|col_embed)\.weight$'
    r'|(level_embeds|cams_embeds)$'
)
QEMB = re.compile(r'(query_embedding|map_instance_embedding|motion_mode_query|ego_query)\.weight$')
OUTP = re.compile(r'(^|\.)(out_proj|output_proj)\.weight$')
KEEP = re.compile(r'(^|\.)(map_)?code_weights$')
REFPTS = re.compile(r'(^|\.)(map_)?reference_points\.weight$')


def _z(name, shape):
    g = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return g.standard_normal(tuple(shape))


def _last_linear_names(names):
    """names of the last '<prefix>.<int>.weight' of the classification branches / ego decoder."""
    last = {}
    for n in names:
        m = re.match(
            r'(.*\b(?:cls_branches|map_cls_branches|traj_cls_branches)\.\d+|.*\bego_fut_decoder)\.(\d+)\.weight$', n
        )
        if m:
            k = m.group(1)
            if k not in last or int(m.group(2)) > last[k]:
                last[k] = int(m.group(2))
    return {f'{k}.{i}.weight' for k, i in last.items()}


def value(name, shape, names):
    """numpy float32 array for one entry, or None if the entry must be left untouched.
    names: the set of all state_dict names."""
    if KEEP.search(name):
        return None
    if name.endswith('num_batches_tracked'):
        return np.zeros(tuple(shape), dtype=np.int64)
    z = _z(name, shape)
    stem = name.rsplit('.', 1)[0]
    is_bn = (stem + '.running_var') in names
    if name.endswith('.running_mean'):
        v = 0.1 * z
    elif name.endswith('.running_var'):
        v = 1.0 + 0.1 * np.abs(z)
    elif name.endswith('bias'):
        v = (1.0 if stem.endswith('sampling_offsets') else 0.05) * z
        if 'ego_fut_decoder' in name and (stem + '.weight') in _last_linear_names(names):
            v = v + np.where(np.arange(v.size) % 2 == 0, 1.5, 3.0)
    elif EMBED.search(name):
        v = (1.5 if QEMB.search(name) else 0.3 if 'map_pts_embedding' in name else 0.5) * z
    elif len(shape) == 1:  # BN / LN weight
        v = 1.0 + (0.1 if is_bn else 0.05) * z
    else:
        fan_in = int(np.prod(shape[1:]))
        gain = 1.0
        if REFPTS.search(name):
            gain = 3.0
        elif OUTP.search(name):
            gain = 0.5
        elif name in _last_linear_names(names):
            gain = 2.0
        v = gain / math.sqrt(fan_in) * z
    return np.ascontiguousarray(v, dtype=np.float32)


@torch.no_grad()
def fill_state_dict(model):
    """Overwrite all parameters and buffers of `model` in place. Returns the number filled."""
    sd = model.state_dict()
    names = set(sd.keys())
    n = 0
    for k, t in sd.items():
        v = value(k, tuple(t.shape), names)
        if v is None:
            continue
        t.copy_(torch.from_numpy(np.asarray(v)).to(t.dtype).reshape(t.shape))
        n += 1
    return n


def checksum(model):
    """name -> [crc32 of float32 bytes, sum(float64), sum|.|(float64)]"""
    out = {}
    for k, t in model.state_dict().items():
        a = t.detach().cpu().numpy()
        out[k] = [
            zlib.crc32(np.ascontiguousarray(a).tobytes()),
            float(a.astype(np.float64).sum()),
            float(np.abs(a.astype(np.float64)).sum()),
        ]
    return out

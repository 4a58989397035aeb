"""Files of InkNet in all old layouts, as the predecessor and plain scripts wrote them."""

from pathlib import Path

import torch

from vadslim.examples.ink import InkNet

SMALL = {'embed_dim': 16, 'num_layers': 1, 'decoder_dim': 8}


def trained(full_heads, steps=4):
    """Weights, the state of AdamW after some steps, those of two schedulers."""
    torch.manual_seed(0)
    model = InkNet(**SMALL, full_heads=full_heads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedulers = [
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50),
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=9),
    ]
    for _ in range(steps):
        sum(value.square().sum() for value in model.parameters()).backward()
        optimizer.step()
    state = model.state_dict()
    if full_heads:  # its name in the predecessor
        state = {name.replace('heads.keypoints.', 'heads.junction.'): value for name, value in state.items()}
    return state, optimizer.state_dict(), *(scheduler.state_dict() for scheduler in schedulers)


def write_all(folder):
    """Write a file of each layout; stage -> {layout: path}."""
    files = {}
    for stage in ('structural', 'dense'):
        state, moments, cosine, cycle = trained(stage == 'dense')
        halves: dict[str, dict] = {'encoder_state_dict': {}, 'decoder_state_dict': {}}
        for name, value in state.items():  # the heads are the decoder's
            half = 'encoder' if name.startswith('encoder.') else 'decoder'
            halves[f'{half}_state_dict'][name.removeprefix(f'{half}.')] = value
        model = {**SMALL, 'full_heads': stage == 'dense'}
        config = {
            'model': model,
            'training': {'lr': 1e-3, 'batch_size': 4, 'epochs': 3},
            'data': {'img_size': 64, 'num_workers': 0, 'rust_threads': 4, 'curriculum_stage': 2},
            'logging': {'log_interval': 10, 'vis_interval': 2, 'tensorboard_dir': 'runs'},
            'device': {'type': None},
            'stages': [],
        }
        script = {'epoch': 1, 'model_state_dict': state, 'optimizer_state_dict': moments, 'loss': 1.5}
        contents = {
            'manager': {
                'version': 1,
                'scheduler_state_dict': cycle,
                'metric': 0.25,
                'config': config,
                'metadata': {'stage': stage},
                'timestamp': '2025-03-01T12:00:00',
                **{key: script[key] for key in ('epoch', 'model_state_dict', 'optimizer_state_dict')},
            },
            'short': {'model': state, 'optimizer': moments, 'scheduler': cycle, 'config': config},
            'tensors': state,
            'pair': halves,
            'encoder': {'encoder_state_dict': halves['encoder_state_dict']},
        }
        if stage == 'structural':
            flat = {'embed_dim': 16, 'num_layers': 1, 'mask_ratio': 0.6}
            contents['script'] = {**script, 'scheduler_state_dict': cosine, 'config': flat}
        else:
            contents['script'] = script
        files[stage] = {}
        for layout, content in contents.items():
            files[stage][layout] = Path(folder) / stage / f'{layout}.pth'
            files[stage][layout].parent.mkdir(parents=True, exist_ok=True)
            torch.save(content, files[stage][layout])
    return files

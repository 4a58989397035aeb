# What a slim VAD learns from the dense one (vadslim.DistillHook): the plan, the bird's-eye view, and what the last decoder layers say.
# The weights make each term a tenth to a quarter of its own training loss, seen on a trained VAD-nano without 30 % of its units.
# Boxes, vectors and motion count by the teacher's confidence in them: what it says of queries that found nothing is noise.
__head = 'pts_bbox_head'
__agents = dict(module=__head, kept=[f'{__head}.query_embedding.weight:0'])
__vectors = dict(module=__head, kept=[f'{__head}.map_instance_embedding.weight:0'])
__agent_scores = [__head, 'all_cls_scores', -1]
__vector_scores = [__head, 'map_all_cls_scores', -1]

distillation = dict(
    in_training=['grid_mask'],  # the teacher sees the squares that the student sees
    losses=[
        dict(name='plan', module=__head, output='ego_fut_preds', kind='l1', weight=1.0),  # metres
        dict(
            name='bev',
            module=__head,
            output='bev_embed',
            kind='mse',
            weight=1.0,
            kept=[f'{__head}.bev_embedding.weight:0', f'{__head}.bev_embedding.weight:1']),
        dict(name='cls', output=['all_cls_scores', -1], kind='binary_kl', weight=10.0, **__agents),
        dict(name='bbox', output=['all_bbox_preds', -1], kind='l1', weight=1.0, confidence=__agent_scores, **__agents),
        dict(name='traj', output=['all_traj_preds', -1], kind='l1', weight=1.0, confidence=__agent_scores, **__agents),
        dict(name='traj_cls', output=['all_traj_cls_scores', -1], kind='binary_kl', weight=0.5, **__agents),
        dict(name='map_cls', output=['map_all_cls_scores', -1], kind='binary_kl', weight=2.0, **__vectors),
        dict(
            name='map_pts',
            output=['map_all_pts_preds', -1],
            kind='l1',
            weight=10.0,
            confidence=__vector_scores,
            **__vectors),
    ])

"""nuScenes as files: a synthetic data set in its format, the conversion to VAD's info files, the vector map.

Nothing here imports torch, so that the commands made of it start at once.
"""

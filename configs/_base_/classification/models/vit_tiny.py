# 2.7 M parameters; patches of 4 pixels suit images of 16 to 64; of 224: patch_size=16
model = dict(type='vadslim.VisionTransformer', size='tiny')

# 11.2 M parameters; 3 x 3 stem for images of 32 or 64 pixels; of 224: stem='imagenet'
model = dict(type='vadslim.ResNet', depth=18)

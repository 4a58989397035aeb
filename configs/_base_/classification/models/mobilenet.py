# 3.2 M parameters; for images of 32 or 64 pixels
model = dict(type='vadslim.MobileNet')

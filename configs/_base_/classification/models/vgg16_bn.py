# 14.7 M parameters
model = dict(type='vadslim.VGG')

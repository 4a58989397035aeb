# 0.85 M parameters
model = dict(type='vadslim.CIFARResNet', depth=56)

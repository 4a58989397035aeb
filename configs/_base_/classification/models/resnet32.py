# 0.46 M parameters; shortcuts of 1 x 1 convolutions take shortcut='B'
model = dict(type='vadslim.CIFARResNet', depth=32)

# 0.27 M parameters; widths 16, 32, 64, shortcuts without weights
model = dict(type='vadslim.CIFARResNet', depth=20)

# 3.3 M parameters; three stages, then 256 * 4 * 4 -> 512 -> classes for images of 32 pixels
model = dict(
    type='vadslim.VGG', widths=(64, 64, 'M', 128, 128, 'M', 256, 256, 'M'), hidden=512, dropout=0.5)

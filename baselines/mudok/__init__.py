"""MuDoK (arXiv 2405.13085): items of several domains, each with its attributes, pre-trained by contrast and by their triples.

:mod:`.sequences` turns a KG into items with attribute slots, :mod:`.encoder` runs BERT layers over them without pads, :mod:`.model`
adds the input layer, :mod:`.losses` and :mod:`.train` pre-train it, :mod:`.prompt` puts trainable codes in front of it, :mod:`.submission` joins
them to the shared heads.
"""

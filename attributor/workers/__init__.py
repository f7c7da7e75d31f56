"""Child processes: image decoders and models, and the parent-side pools that feed them."""

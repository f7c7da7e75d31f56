"""Embeddings as files, in clip-retrieval's layout: written by `index export`, read by `index add`.

    profile.json                        which models made them
    img_emb/img_emb_0000.npy            (N, D), the recall vectors
    perceptual_emb/perceptual_emb_0000.npy    (N, V, P), or (N, P) where there is one view
    metadata/metadata_0000.parquet      N rows: sha256, key, image_path, caption, ...

With them an index can be rebuilt without the images.
"""

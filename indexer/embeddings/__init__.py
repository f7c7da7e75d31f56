"""Files of embeddings in clip-retrieval's layout: `index export` writes them, `index add` reads them.

    profile.json                        the profile of the models
    img_emb/img_emb_0000.npy            (N, D), the recall vectors
    perceptual_emb/perceptual_emb_0000.npy    (N, V, P), or (N, P) where there is one view
    metadata/metadata_0000.parquet      N rows: sha256, key, image_path, caption, local_features, ...

An index can be rebuilt from them without the images.
"""

"""Operations: metrics, logging, memory and stored thumbnails."""

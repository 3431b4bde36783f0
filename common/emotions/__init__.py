"""The words of emotions: their forms in English and Chinese, where a text names them, and what is negated."""

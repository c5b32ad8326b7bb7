"""`headmap/smol-ocr`: SmolLM2-135M-Instruct with a small vision tower of ours, as a Pixtral model."""

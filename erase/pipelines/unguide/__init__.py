"""UnGuide: a LoRA adapter and the guidance that decides, for each sample, how much of it is followed."""

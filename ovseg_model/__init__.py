"""The model: masked regions, CLIP, mask proposals. Needs torch and open_clip, never Beam."""

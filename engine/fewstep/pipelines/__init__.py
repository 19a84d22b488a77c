"""fewstep inside pipelines of diffusers: their modules as views that run fused ops over the same tensors."""

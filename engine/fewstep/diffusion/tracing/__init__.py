"""How a scheduler of diffusers is read as a plan: `fewstep.diffusion.traced` puts these parts together."""

"""The attention of real U-Nets."""

# Batch, heads, queries, keys, head dim. Two samples are the halves of one guided image.
UNETS = {
    "SD 64x64 self": (2, 8, 4096, 4096, 40),
    "SD 64x64 cross": (2, 8, 4096, 77, 40),
    "SD 32x32 self": (2, 8, 1024, 1024, 80),
    "SD 16x16 self": (2, 8, 256, 256, 160),
    "SD 8x8 cross": (2, 8, 64, 77, 160),
    "SDXL 64x64 self": (2, 10, 4096, 4096, 64),
    "SDXL 32x32 cross": (2, 20, 1024, 77, 64),
    "ADM 32x32 self": (4, 6, 1024, 1024, 64),
    "CIFAR 16x16 self": (16, 1, 256, 256, 256),
}

// What kernels are written in: CUDA and PTX under nvcc, an emulator of both in any other compiler.
#pragma once

#ifdef __CUDACC__
#include "simt/device.h"
#else
#include "simt/emulator.h"
#endif

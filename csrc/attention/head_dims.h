// The head dims that have kernels of their own: ninja_build.py writes built.h, which lists them.
#pragma once

#include "built.h"

namespace attention {

template <int... kHeadDims>
struct HeadDims {};

using Built = HeadDims<FEWSTEP_HEAD_DIMS>;  // ascending

}  // namespace attention
